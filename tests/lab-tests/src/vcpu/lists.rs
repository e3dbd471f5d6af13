// SPDX-License-Identifier: GPL-2.0

//! ioctls with lists: MSRs and CPUID.

use crate::harness::{tests, Lab};
use crate::machine::{self, Machine};
use crate::raw::{self, Sys};
use guest::asm::*;
use ioctl_api::number::*;
use ioctl_api::regs::{Cpuid2, CpuidEntry2, MsrEntry, MsrList, Msrs};
use libc::{E2BIG, EINVAL};
use vmm::Vcpu;

tests![
    msrs_listed_can_be_read_and_written,
    msrs_stop_at_the_first_bad_index,
    msrs_stop_at_the_first_bad_value,
    msrs_too_many,
    msr_values_are_kept,
    cpuid_reads_back,
    cpuid_too_small,
    cpuid_too_many,
    cpuid_bad_address_width,
    cpuid_is_fixed_after_the_first_run,
];

const ROOM: usize = 256;
/// An MSR that no processor has.
const NO_MSR: u32 = 0xdead_beef;
const SYSENTER_CS: u32 = 0x174;
const SYSENTER_ESP: u32 = 0x175;
/// KVM's own, some of which refuse what they read as.
const KVM_MSRS: std::ops::Range<u32> = 0x4b56_4d00..0x4b56_4e00;
const LSTAR: u32 = 0xc000_0082;
const NOT_CANONICAL: u64 = 1 << 63;

/// `struct kvm_msrs`.
#[repr(C)]
#[derive(Clone, Copy)]
struct MsrArray {
    head: Msrs,
    entries: [MsrEntry; ROOM],
}

impl MsrArray {
    fn new(list: &[(u32, u64)]) -> Self {
        let mut entries = [MsrEntry::default(); ROOM];
        for (entry, &(index, data)) in entries.iter_mut().zip(list) {
            (entry.index, entry.data) = (index, data);
        }
        let head = Msrs {
            nmsrs: list.len() as u32,
            pad: 0,
        };
        Self { head, entries }
    }

    fn get(&mut self, cpu: &Vcpu) -> Sys {
        raw::with(cpu.fd(), KVM_GET_MSRS, self)
    }

    fn set(&mut self, cpu: &Vcpu) -> Sys {
        raw::with(cpu.fd(), KVM_SET_MSRS, self)
    }
}

fn msr(cpu: &Vcpu, index: u32) -> u64 {
    let mut one = MsrArray::new(&[(index, 0)]);
    assert_eq!(one.get(cpu), Ok(1), "{index:#x}");
    one.entries[0].data
}

fn vcpu(lab: &Lab) -> Vcpu {
    machine::vm(lab).vcpu(0).expect("a vCPU")
}

/// `struct kvm_msr_list`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Indices {
    head: MsrList,
    indices: [u32; ROOM],
}

fn msrs_listed_can_be_read_and_written(lab: &Lab) {
    let mut list = Indices {
        head: MsrList { nmsrs: ROOM as u32 },
        indices: [0; ROOM],
    };
    assert_eq!(
        raw::with(&lab.kvm(), KVM_GET_MSR_INDEX_LIST, &mut list),
        Ok(0)
    );
    let cpu = vcpu(lab);
    for index in &list.indices[..list.head.nmsrs as usize] {
        let mut one = MsrArray::new(&[(*index, 0)]);
        let read = one.get(&cpu);
        // KVM lists some that the guest's CPUID takes away again.
        if !lab.is_ours() && (read == Ok(0) || KVM_MSRS.contains(index)) {
            continue;
        }
        assert_eq!(read, Ok(1), "read {index:#x}");
        let value = one.entries[0].data;
        assert_eq!(one.set(&cpu), Ok(1), "write {index:#x} = {value:#x}");
    }
}

fn msrs_stop_at_the_first_bad_index(lab: &Lab) {
    let cpu = vcpu(lab);
    let list = [
        (SYSENTER_CS, 0x11),
        (SYSENTER_ESP, 0x22),
        (NO_MSR, 0),
        (LSTAR, 0x33),
    ];
    assert_eq!(MsrArray::new(&list).set(&cpu), Ok(2));
    let mut read = MsrArray::new(&list.map(|(index, _)| (index, 0x99)));
    assert_eq!(read.get(&cpu), Ok(2));
    let values = [0, 1, 2, 3].map(|n| read.entries[n].data);
    assert_eq!(values[..2], [0x11, 0x22]);
    assert_eq!(values[3], 0x99, "not read");
    assert_eq!(msr(&cpu, LSTAR), 0, "not written");
    assert_eq!(MsrArray::new(&[(NO_MSR, 0)]).get(&cpu), Ok(0));
    assert_eq!(MsrArray::new(&[]).get(&cpu), Ok(0));
    assert_eq!(MsrArray::new(&[]).set(&cpu), Ok(0));
}

fn msrs_stop_at_the_first_bad_value(lab: &Lab) {
    let cpu = vcpu(lab);
    let list = [(SYSENTER_CS, 5), (LSTAR, NOT_CANONICAL), (SYSENTER_ESP, 5)];
    assert_eq!(MsrArray::new(&list).set(&cpu), Ok(1));
    assert_eq!(
        [SYSENTER_CS, LSTAR, SYSENTER_ESP].map(|i| msr(&cpu, i)),
        [5, 0, 0]
    );
    for (index, bad) in [
        (0x277, 2),
        (0x277, 0x0100_0000_0000_0000 << 7),
        (0xc000_0080, 1 << 1),
        (0x1b, 1),
    ] {
        let before = msr(&cpu, index);
        assert_eq!(
            MsrArray::new(&[(index, bad)]).set(&cpu),
            Ok(0),
            "{index:#x} = {bad:#x}"
        );
        assert_eq!(msr(&cpu, index), before);
    }
}

fn msrs_too_many(lab: &Lab) {
    let cpu = vcpu(lab);
    for nmsrs in [256, 257, u32::MAX] {
        let mut list = MsrArray::new(&[]);
        list.head.nmsrs = nmsrs;
        assert_eq!(list.get(&cpu), Err(E2BIG), "{nmsrs}");
        list.head.nmsrs = nmsrs;
        assert_eq!(list.set(&cpu), Err(E2BIG), "{nmsrs}");
    }
    assert_eq!(MsrArray::new(&[(SYSENTER_CS, 0); 255]).get(&cpu), Ok(255));
}

fn msr_values_are_kept(lab: &Lab) {
    let cpu = vcpu(lab);
    let list = [
        (SYSENTER_CS, 0x10),
        (SYSENTER_ESP, 0xffff_8000_0000_1000),
        (0x176, 0x2000),
        (0x277, 0x0007_0406_0007_0406),
        (0xc000_0081, 0x0123_4567_89ab_cdef),
        (LSTAR, 0xffff_8000_1111_2222),
        (0xc000_0084, 0x4_7700),
        (0xc000_0100, 0x7000),
        (0xc000_0101, 0x8000),
        (0xc000_0102, 0x9000),
        (0xc000_0103, 0x77),
    ];
    assert_eq!(MsrArray::new(&list).set(&cpu), Ok(list.len() as i32));
    for (index, value) in list {
        assert_eq!(msr(&cpu, index), value, "{index:#x}");
    }
    let sregs = cpu.fd().get_sregs().expect("KVM_GET_SREGS");
    assert_eq!((sregs.fs.base, sregs.gs.base), (0x7000, 0x8000));
}

/// `struct kvm_cpuid2`.
#[repr(C)]
#[derive(Clone, Copy)]
struct CpuidList {
    head: Cpuid2,
    entries: [CpuidEntry2; ROOM],
}

fn list(entries: &[CpuidEntry2]) -> CpuidList {
    let mut all = [CpuidEntry2::default(); ROOM];
    all[..entries.len()].copy_from_slice(entries);
    let head = Cpuid2 {
        nent: entries.len() as u32,
        padding: 0,
    };
    CpuidList { head, entries: all }
}

fn empty(nent: u32) -> CpuidList {
    let mut list = list(&[]);
    list.head.nent = nent;
    list
}

const LEAF: CpuidEntry2 = CpuidEntry2 {
    function: 0x1234,
    index: 0,
    flags: 0,
    eax: 1,
    ebx: 2,
    ecx: 3,
    edx: 4,
    padding: [0; 3],
};

fn cpuid_reads_back(lab: &Lab) {
    let cpu = vcpu(lab);
    let entries = [
        LEAF,
        CpuidEntry2 {
            function: 0x1235,
            index: 1,
            flags: 1,
            ..LEAF
        },
    ];
    assert_eq!(
        raw::with(cpu.fd(), KVM_SET_CPUID2, &mut list(&entries)),
        Ok(0)
    );
    let mut read = empty(ROOM as u32);
    assert_eq!(raw::with(cpu.fd(), KVM_GET_CPUID2, &mut read), Ok(0));
    assert_eq!(read.head.nent, 2);
    assert_eq!(read.entries[..2], entries);
}

fn cpuid_too_small(lab: &Lab) {
    let cpu = vcpu(lab);
    assert_eq!(
        raw::with(cpu.fd(), KVM_SET_CPUID2, &mut list(&[LEAF; 3])),
        Ok(0)
    );
    for nent in [0, 2] {
        let mut read = empty(nent);
        assert_eq!(raw::with(cpu.fd(), KVM_GET_CPUID2, &mut read), Err(E2BIG));
        assert_eq!(read.entries[0], CpuidEntry2::default());
    }
    assert_eq!(raw::with(cpu.fd(), KVM_GET_CPUID2, &mut empty(3)), Ok(0));
}

fn cpuid_too_many(lab: &Lab) {
    let cpu = vcpu(lab);
    for nent in [257, u32::MAX] {
        assert_eq!(
            raw::with(cpu.fd(), KVM_SET_CPUID2, &mut empty(nent)),
            Err(E2BIG),
            "{nent}"
        );
    }
}

fn cpuid_bad_address_width(lab: &Lab) {
    let cpu = vcpu(lab);
    let sizes = |width| CpuidEntry2 {
        function: 0x8000_0008,
        eax: width,
        ..LEAF
    };
    for linear in [47, 49, 64] {
        let entries = [LEAF, sizes(40 | (linear << 8))];
        let result = raw::with(cpu.fd(), KVM_SET_CPUID2, &mut list(&entries));
        assert_eq!(result, Err(EINVAL), "{linear} bits");
    }
    assert_eq!(
        raw::with(
            cpu.fd(),
            KVM_SET_CPUID2,
            &mut list(&[sizes(40 | (48 << 8))])
        ),
        Ok(0)
    );
}

fn cpuid_is_fixed_after_the_first_run(lab: &Lab) {
    let mut machine = Machine::long(lab, |a| {
        a.mov(eax, 0x4000_0001)?;
        a.cpuid()?;
        a.hlt()
    });
    let cpuid = machine.cpu.fd().get_cpuid2(ROOM).expect("KVM_GET_CPUID2");
    let mut other = cpuid.clone();
    other.as_mut_slice()[0].eax ^= 1;
    machine
        .cpu
        .fd()
        .set_cpuid2(&other)
        .expect("before the first run");
    machine.cpu.fd().set_cpuid2(&cpuid).expect("and back");
    machine.expect_hlt();
    let error = machine.cpu.fd().set_cpuid2(&other).expect_err("after it");
    assert_eq!(error.errno(), EINVAL);
    machine.cpu.fd().set_cpuid2(&cpuid).expect("the same again");
}
