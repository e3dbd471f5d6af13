// SPDX-License-Identifier: GPL-2.0

//! Registers and events.

use crate::harness::{tests, Lab};
use crate::machine::{self, Machine, Stop};
use crate::raw::{self, Sys};
use guest::asm::*;
use guest::{Mode, GDT, TABLES};
use ioctl_api::number::*;
use ioctl_api::regs::{Debugregs, Fpu, Regs, Sregs, Xcr, Xcrs, XSAVE_SIZE};
use ioctl_api::vcpu::*;
use libc::EINVAL;
use vmm::Vcpu;

tests![
    reset_state,
    regs_round_trip,
    sregs_round_trip,
    sregs_that_contradict_themselves,
    fpu_round_trip,
    xsave_round_trip,
    xsave_bad_header,
    xcrs_round_trip,
    xcrs_bad_values,
    debugregs_round_trip,
    debugregs_bad_values,
    events_round_trip,
    events_bad_values,
    mp_state,
    signal_mask_length,
    interrupt_vector,
    interrupt_bitmap,
    regs_drop_a_pending_exception,
];

/// Reads a structure of a vCPU.
fn get<T: Copy + Default>(cpu: &Vcpu, code: u32) -> T {
    let mut value = T::default();
    assert_eq!(raw::with(cpu.fd(), code, &mut value), Ok(0), "{code:#x}");
    value
}

/// Writes a structure of a vCPU.
fn set<T: Copy>(cpu: &Vcpu, code: u32, value: &T) -> Sys {
    let mut value = *value;
    raw::with(cpu.fd(), code, &mut value)
}

fn vcpu(lab: &Lab) -> Vcpu {
    machine::vm(lab).vcpu(0).expect("a vCPU")
}

fn reset_state(lab: &Lab) {
    let cpu = vcpu(lab);
    let regs: Regs = get(&cpu, KVM_GET_REGS);
    let expected = Regs {
        rip: 0xfff0,
        rflags: 2,
        rdx: 0x600,
        ..Regs::default()
    };
    assert_eq!(regs, expected);
    let sregs: Sregs = get(&cpu, KVM_GET_SREGS);
    assert_eq!(
        (sregs.cs.selector, sregs.cs.base, sregs.cs.limit),
        (0xf000, 0xffff_0000, 0xffff)
    );
    assert_eq!((sregs.cs.type_, sregs.cs.s, sregs.cs.present), (11, 1, 1));
    for data in [sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss] {
        assert_eq!((data.selector, data.base, data.limit), (0, 0, 0xffff));
        assert_eq!((data.type_, data.s, data.present), (3, 1, 1));
    }
    assert_eq!(
        (sregs.tr.type_, sregs.tr.limit, sregs.tr.present),
        (11, 0xffff, 1)
    );
    assert_eq!(
        (sregs.ldt.type_, sregs.ldt.limit, sregs.ldt.present),
        (2, 0xffff, 1)
    );
    assert_eq!((sregs.gdt.base, sregs.gdt.limit), (0, 0xffff));
    assert_eq!((sregs.idt.base, sregs.idt.limit), (0, 0xffff));
    assert_eq!(sregs.cr0, 0x6000_0010);
    assert_eq!(
        (sregs.cr2, sregs.cr3, sregs.cr4, sregs.cr8, sregs.efer),
        (0, 0, 0, 0, 0)
    );
    assert_eq!(sregs.apic_base, 0xfee0_0900);
    let debug: Debugregs = get(&cpu, KVM_GET_DEBUGREGS);
    assert_eq!(
        (debug.db, debug.dr6, debug.dr7),
        ([0; 4], 0xffff_0ff0, 0x400)
    );
    let fpu: Fpu = get(&cpu, KVM_GET_FPU);
    assert_eq!((fpu.fcw, fpu.fsw, fpu.ftwx), (0x37f, 0, 0));
    let events: VcpuEvents = get(&cpu, KVM_GET_VCPU_EVENTS);
    assert_eq!(
        events.exception.injected + events.interrupt.injected + events.nmi.injected,
        0
    );
}

fn regs_round_trip(lab: &Lab) {
    let cpu = vcpu(lab);
    let regs = Regs {
        rax: 1,
        rbx: 2,
        rcx: 3,
        rdx: 4,
        rsi: 5,
        rdi: 6,
        rsp: 7,
        rbp: 8,
        r8: u64::MAX,
        r9: 10,
        r10: 11,
        r11: 12,
        r12: 13,
        r13: 14,
        r14: 15,
        r15: 1 << 63,
        rip: 0x1234_5678_9abc_def0,
        rflags: 0x40_0246,
    };
    assert_eq!(set(&cpu, KVM_SET_REGS, &regs), Ok(0));
    assert_eq!(get::<Regs>(&cpu, KVM_GET_REGS), regs);
    let without_fixed = Regs { rflags: 0, ..regs };
    assert_eq!(set(&cpu, KVM_SET_REGS, &without_fixed), Ok(0));
    assert_eq!(get::<Regs>(&cpu, KVM_GET_REGS).rflags, 2);
}

fn sregs_round_trip(lab: &Lab) {
    let cpu = vcpu(lab);
    for mode in Mode::ALL {
        let mut sregs = cpu.fd().get_sregs().expect("KVM_GET_SREGS");
        mode.enter(&mut sregs, TABLES, GDT);
        sregs.gs.base = 0x1234_5000;
        sregs.idt.base = 0x6000;
        sregs.cr2 = 0x77_0000;
        sregs.cr8 = 5;
        cpu.fd()
            .set_sregs(&sregs)
            .unwrap_or_else(|e| panic!("{mode:?}: {e}"));
        let mut read = cpu.fd().get_sregs().expect("KVM_GET_SREGS");
        // KVM's selector of an unusable LDT, and bits nobody sets, do not matter.
        read.cr0 |= 1 << 4;
        sregs.cr0 |= 1 << 4;
        assert_eq!(read, sregs, "{mode:?}");
    }
}

type Breakage = (&'static str, fn(&mut Sregs));

/// Changes of a 64-bit guest's registers that no processor can be in.
const CONTRADICTIONS: &[Breakage] = &[
    ("CR0 bit 32", |s| s.cr0 |= 1 << 32),
    ("CR0 bit 63", |s| s.cr0 |= 1 << 63),
    ("PG without PE", |s| s.cr0 &= !1),
    ("NW without CD", |s| s.cr0 |= 1 << 29),
    ("CR4 bit 31", |s| s.cr4 |= 1 << 31),
    ("CR4 bit 63", |s| s.cr4 |= 1 << 63),
    ("long mode without PAE", |s| s.cr4 &= !(1 << 5)),
    ("LME and PG without LMA", |s| s.efer &= !(1 << 10)),
    ("LMA without LME", |s| s.efer &= !(1 << 8)),
    ("LMA without PG", |s| s.cr0 &= !(1 << 31)),
    ("64-bit code outside long mode", |s| s.efer = 0),
    ("CR3 beyond MAXPHYADDR", |s| s.cr3 |= 1 << 52),
    ("APIC base reserved bits", |s| s.apic_base |= 1),
    ("APIC base beyond MAXPHYADDR", |s| s.apic_base |= 1 << 60),
];

fn sregs_that_contradict_themselves(lab: &Lab) {
    let mut machine = Machine::long(lab, |a| {
        a.mov(eax, 7)?;
        a.hlt()
    });
    let before: Sregs = get(&machine.cpu, KVM_GET_SREGS);
    for (what, change) in CONTRADICTIONS {
        let mut sregs = before;
        sregs.cr2 = 0xbad;
        sregs.gs.base = 0xbad;
        change(&mut sregs);
        assert_eq!(
            set(&machine.cpu, KVM_SET_SREGS, &sregs),
            Err(EINVAL),
            "{what}"
        );
        assert_eq!(get::<Sregs>(&machine.cpu, KVM_GET_SREGS), before, "{what}");
    }
    machine.expect_hlt();
    assert_eq!(machine.regs().rax, 7);
}

fn sample_fpu() -> Fpu {
    let mut fpu = Fpu {
        fcw: 0x27f,
        fsw: 0x3800,
        ftwx: 0x81,
        last_opcode: 0x123,
        last_ip: 0x1122_3344,
        last_dp: 0x5566_7788,
        mxcsr: 0x1f80,
        ..Fpu::default()
    };
    for (n, register) in fpu.fpr.iter_mut().enumerate() {
        register[..10].fill(0x10 + n as u8);
    }
    for (n, register) in fpu.xmm.iter_mut().enumerate() {
        register.fill(0x80 + n as u8);
    }
    fpu
}

fn fpu_round_trip(lab: &Lab) {
    let cpu = vcpu(lab);
    let fpu = sample_fpu();
    assert_eq!(set(&cpu, KVM_SET_FPU, &fpu), Ok(0));
    let mut read: Fpu = get(&cpu, KVM_GET_FPU);
    if !lab.is_ours() {
        // KVM does not look at it.
        read.mxcsr = fpu.mxcsr;
    }
    assert_eq!(read, fpu);
}

/// `struct kvm_xsave`.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Xsave([u8; XSAVE_SIZE]);

impl Default for Xsave {
    fn default() -> Self {
        Self([0; XSAVE_SIZE])
    }
}

/// Offset of XSTATE_BV in the area.
const XSTATE_BV: usize = 512;
/// Offset of XCOMP_BV.
const XCOMP_BV: usize = 520;

fn xsave_round_trip(lab: &Lab) {
    let cpu = vcpu(lab);
    let mut area: Xsave = get(&cpu, KVM_GET_XSAVE);
    area.0[0..2].copy_from_slice(&0x27f_u16.to_le_bytes());
    area.0[24..28].copy_from_slice(&0x9fc0_u32.to_le_bytes());
    area.0[160..416].fill(0xa5);
    area.0[XSTATE_BV] = 3;
    assert_eq!(set(&cpu, KVM_SET_XSAVE, &area), Ok(0));
    let read: Xsave = get(&cpu, KVM_GET_XSAVE);
    assert_eq!(read.0[0..2], area.0[0..2]);
    assert_eq!(read.0[24..28], area.0[24..28], "MXCSR");
    assert_eq!(read.0[160..416], area.0[160..416], "XMM");
    let fpu: Fpu = get(&cpu, KVM_GET_FPU);
    assert_eq!((fpu.fcw, fpu.xmm[15]), (0x27f, [0xa5; 16]));
}

fn xsave_bad_header(lab: &Lab) {
    let cpu = vcpu(lab);
    assert_eq!(set(&cpu, KVM_SET_FPU, &sample_fpu()), Ok(0));
    let good: Xsave = get(&cpu, KVM_GET_XSAVE);
    // A component that does not exist, the compacted format, a reserved word,
    // a reserved bit of MXCSR.
    for (offset, bit) in [
        (XSTATE_BV + 7, 6),
        (XCOMP_BV + 7, 7),
        (XCOMP_BV, 0),
        (536, 0),
        (26, 4),
    ] {
        let mut area = good;
        area.0[160..416].fill(0xee);
        area.0[XSTATE_BV] |= 3;
        area.0[offset] |= 1 << bit;
        assert_eq!(
            set(&cpu, KVM_SET_XSAVE, &area),
            Err(EINVAL),
            "byte {offset}, bit {bit}"
        );
        assert_eq!(
            get::<Fpu>(&cpu, KVM_GET_FPU).xmm,
            sample_fpu().xmm,
            "byte {offset}"
        );
    }
}

fn xcr0(value: u64) -> Xcrs {
    let mut xcrs = Xcrs {
        nr_xcrs: 1,
        ..Xcrs::default()
    };
    xcrs.xcrs[0] = Xcr {
        value,
        ..Xcr::default()
    };
    xcrs
}

fn xcrs_round_trip(lab: &Lab) {
    let cpu = vcpu(lab);
    let read: Xcrs = get(&cpu, KVM_GET_XCRS);
    assert_eq!(
        (read.nr_xcrs, read.xcrs[0].xcr, read.xcrs[0].value),
        (1, 0, 1)
    );
    for value in [3, 7, 1] {
        assert_eq!(set(&cpu, KVM_SET_XCRS, &xcr0(value)), Ok(0), "{value}");
        assert_eq!(get::<Xcrs>(&cpu, KVM_GET_XCRS).xcrs[0].value, value);
    }
}

fn xcrs_bad_values(lab: &Lab) {
    let cpu = vcpu(lab);
    assert_eq!(set(&cpu, KVM_SET_XCRS, &xcr0(3)), Ok(0));
    // No x87; AVX without SSE; a component that does not exist; AVX-512 in part.
    for value in [0, 2, 5, (1 << 62) | 3, 0x23] {
        assert_eq!(
            set(&cpu, KVM_SET_XCRS, &xcr0(value)),
            Err(EINVAL),
            "{value:#x}"
        );
    }
    let flags = Xcrs {
        flags: 1,
        ..xcr0(1)
    };
    assert_eq!(set(&cpu, KVM_SET_XCRS, &flags), Err(EINVAL));
    let many = Xcrs {
        nr_xcrs: 17,
        ..xcr0(1)
    };
    assert_eq!(set(&cpu, KVM_SET_XCRS, &many), Err(EINVAL));
    assert_eq!(get::<Xcrs>(&cpu, KVM_GET_XCRS).xcrs[0].value, 3);
}

fn debugregs_round_trip(lab: &Lab) {
    let cpu = vcpu(lab);
    let regs = Debugregs {
        db: [0x1000, 0x2000, 0x3000, 0x7fff_ffff_f000],
        dr6: 0xffff_0ff1,
        dr7: 0x401,
        ..Debugregs::default()
    };
    assert_eq!(set(&cpu, KVM_SET_DEBUGREGS, &regs), Ok(0));
    assert_eq!(get::<Debugregs>(&cpu, KVM_GET_DEBUGREGS), regs);
}

fn debugregs_bad_values(lab: &Lab) {
    let cpu = vcpu(lab);
    let before: Debugregs = get(&cpu, KVM_GET_DEBUGREGS);
    let bad: [fn(&mut Debugregs); 4] = [
        |d| d.flags = 1,
        |d| d.dr6 |= 1 << 32,
        |d| d.dr7 |= 1 << 32,
        |d| d.dr7 |= 1 << 63,
    ];
    for (n, change) in bad.iter().enumerate() {
        let mut regs = before;
        regs.db[0] = 0x1000;
        change(&mut regs);
        assert_eq!(
            set(&cpu, KVM_SET_DEBUGREGS, &regs),
            Err(EINVAL),
            "change {n}"
        );
        assert_eq!(
            get::<Debugregs>(&cpu, KVM_GET_DEBUGREGS),
            before,
            "change {n}"
        );
    }
}

fn events_round_trip(lab: &Lab) {
    let cpu = vcpu(lab);
    let mut events: VcpuEvents = get(&cpu, KVM_GET_VCPU_EVENTS);
    events.exception = ExceptionEvent {
        injected: 1,
        nr: 13,
        has_error_code: 1,
        pending: 0,
        error_code: 0x50,
    };
    events.nmi.masked = 1;
    events.nmi.pending = 1;
    events.interrupt.shadow = KVM_X86_SHADOW_INT_STI;
    events.flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW;
    assert_eq!(set(&cpu, KVM_SET_VCPU_EVENTS, &events), Ok(0));
    let read: VcpuEvents = get(&cpu, KVM_GET_VCPU_EVENTS);
    assert_eq!((read.exception.injected, read.exception.nr), (1, 13));
    assert_eq!(
        (read.exception.has_error_code, read.exception.error_code),
        (1, 0x50)
    );
    assert_eq!((read.nmi.masked, read.nmi.pending), (1, 1));
    assert_eq!(read.interrupt.shadow, KVM_X86_SHADOW_INT_STI);
    let interrupt = VcpuEvents {
        interrupt: InterruptEvent {
            injected: 1,
            nr: 0x44,
            ..InterruptEvent::default()
        },
        ..VcpuEvents::default()
    };
    assert_eq!(set(&cpu, KVM_SET_VCPU_EVENTS, &interrupt), Ok(0));
    let read: VcpuEvents = get(&cpu, KVM_GET_VCPU_EVENTS);
    assert_eq!((read.exception.injected, read.nmi.masked), (0, 0));
    assert_eq!((read.interrupt.injected, read.interrupt.nr), (1, 0x44));
    assert_eq!(read.nmi.pending, 1, "not said to be valid, so it stays");
    assert_eq!(read.interrupt.shadow, KVM_X86_SHADOW_INT_STI, "likewise");
}

fn events_bad_values(lab: &Lab) {
    let cpu = vcpu(lab);
    let before: VcpuEvents = get(&cpu, KVM_GET_VCPU_EVENTS);
    let bad: [fn(&mut VcpuEvents); 4] = [
        |e| e.flags |= 1 << 31,
        |e| e.flags |= 1 << 6,
        |e| (e.exception.injected, e.exception.nr) = (1, 32),
        |e| (e.exception.injected, e.exception.nr) = (1, 2),
    ];
    for (n, change) in bad.iter().enumerate() {
        let mut events = before;
        events.nmi.masked = 1;
        change(&mut events);
        assert_eq!(
            set(&cpu, KVM_SET_VCPU_EVENTS, &events),
            Err(EINVAL),
            "change {n}"
        );
        assert_eq!(
            get::<VcpuEvents>(&cpu, KVM_GET_VCPU_EVENTS),
            before,
            "change {n}"
        );
    }
}

fn mp_state(lab: &Lab) {
    let vm = machine::vm(lab);
    for id in [0, 1] {
        let cpu = vm.vcpu(id).expect("a vCPU");
        let state: MpState = get(&cpu, KVM_GET_MP_STATE);
        assert_eq!(state.mp_state, KVM_MP_STATE_RUNNABLE, "vCPU {id}");
        // Without an interrupt controller in the kernel there is no other state.
        for mp_state in [KVM_MP_STATE_HALTED, KVM_MP_STATE_INIT_RECEIVED, 77] {
            let result = set(&cpu, KVM_SET_MP_STATE, &MpState { mp_state });
            assert_eq!(result, Err(EINVAL), "state {mp_state}");
        }
        let runnable = MpState {
            mp_state: KVM_MP_STATE_RUNNABLE,
        };
        assert_eq!(set(&cpu, KVM_SET_MP_STATE, &runnable), Ok(0));
    }
}

/// `struct kvm_signal_mask` and a signal set.
#[repr(C, packed)]
#[derive(Clone, Copy)]
struct Mask {
    head: SignalMask,
    set: u64,
}

fn signal_mask_length(lab: &Lab) {
    let cpu = vcpu(lab);
    for len in [0, 1, 4, 7, 9, 16, 128, u32::MAX] {
        let mask = Mask {
            head: SignalMask { len },
            set: 0,
        };
        assert_eq!(
            set(&cpu, KVM_SET_SIGNAL_MASK, &mask),
            Err(EINVAL),
            "length {len}"
        );
    }
    let mask = Mask {
        head: SignalMask { len: SIGSET_SIZE },
        set: 0,
    };
    assert_eq!(set(&cpu, KVM_SET_SIGNAL_MASK, &mask), Ok(0));
    assert_eq!(raw::number(cpu.fd(), KVM_SET_SIGNAL_MASK, 0), Ok(0), "none");
}

fn interrupt_vector(lab: &Lab) {
    let cpu = vcpu(lab);
    for irq in [256, 0x1_0000, u32::MAX] {
        assert_eq!(
            set(&cpu, KVM_INTERRUPT, &Interrupt { irq }),
            Err(EINVAL),
            "{irq:#x}"
        );
    }
    assert_eq!(set(&cpu, KVM_INTERRUPT, &Interrupt { irq: 255 }), Ok(0));
    let events: VcpuEvents = get(&cpu, KVM_GET_VCPU_EVENTS);
    assert_eq!((events.interrupt.injected, events.interrupt.nr), (1, 255));
}

fn interrupt_bitmap(lab: &Lab) {
    let cpu = vcpu(lab);
    assert_eq!(set(&cpu, KVM_INTERRUPT, &Interrupt { irq: 0x85 }), Ok(0));
    let mut sregs: Sregs = get(&cpu, KVM_GET_SREGS);
    assert_eq!(sregs.interrupt_bitmap, [0, 0, 1 << 5, 0]);
    sregs.interrupt_bitmap = [0, 1 << 7, 0, 0];
    assert_eq!(set(&cpu, KVM_SET_SREGS, &sregs), Ok(0));
    assert_eq!(
        get::<Sregs>(&cpu, KVM_GET_SREGS).interrupt_bitmap,
        [0, 1 << 7, 0, 0]
    );
}

fn regs_drop_a_pending_exception(lab: &Lab) {
    let mut machine = Machine::long(lab, |a| {
        a.mov(eax, 3)?;
        a.hlt()
    });
    let mut events: VcpuEvents = get(&machine.cpu, KVM_GET_VCPU_EVENTS);
    (events.exception.injected, events.exception.nr) = (1, 6);
    assert_eq!(set(&machine.cpu, KVM_SET_VCPU_EVENTS, &events), Ok(0));
    let regs: Regs = get(&machine.cpu, KVM_GET_REGS);
    assert_eq!(set(&machine.cpu, KVM_SET_REGS, &regs), Ok(0));
    let dropped: VcpuEvents = get(&machine.cpu, KVM_GET_VCPU_EVENTS);
    assert_eq!(dropped.exception.pending, 0);
    // An injected one stays until it is delivered, unlike a pending one.
    match dropped.exception.injected {
        0 => assert_eq!(machine.run(), Stop::Hlt),
        _ => drop(machine.expect_event(6)),
    }
}
