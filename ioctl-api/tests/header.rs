// SPDX-License-Identifier: GPL-2.0

//! The same words as a C compiler sees them: writes a C file of static
//! assertions, one for each number, size and offset of ours, and compiles it
//! against the host's `<linux/kvm.h>` and our `kvm_spp.h`.
//!
//! A machine without a C compiler or without the kernel's headers can not run
//! these tests; they say so and pass, and the lab, which has both, runs them.

#![expect(clippy::cast_lossless, reason = "the constants have different types")]

#[macro_use]
mod table;

use core::mem::{offset_of, size_of};
use ioctl_api::{bus, cap, memory, number, regs, run, subpage, vcpu};
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

/// A C file that compiles if everything noted in it is true.
struct Claims(String);

impl Claims {
    fn new(includes: &str) -> Self {
        let mut text = String::from("#include <stddef.h>\n#include <errno.h>\n");
        for file in includes.split_whitespace() {
            writeln!(text, "#include {file}").unwrap();
        }
        Self(text)
    }

    fn equal(&mut self, expression: &str, value: u64) {
        let cast = format!("(unsigned long long)({expression})");
        writeln!(
            self.0,
            "_Static_assert({cast} == {value}ULL, \"{expression}\");"
        )
        .unwrap();
    }

    /// For macros that headers of old distributions do not have yet.
    fn equal_if_known(&mut self, name: &str, value: u64) {
        writeln!(self.0, "#ifdef {name}").unwrap();
        self.equal(name, value);
        self.0.push_str("#endif\n");
    }

    fn size(&mut self, c_struct: &str, size: usize) {
        self.equal(&format!("sizeof(struct {c_struct})"), size as u64);
    }

    fn offset(&mut self, c_struct: &str, field: &str, offset: usize) {
        self.equal(
            &format!("offsetof(struct {c_struct}, {field})"),
            offset as u64,
        );
    }

    /// Whether the compiler agrees; `None` if it could not be asked.
    fn compile(&self) -> Option<Result<(), String>> {
        let probe = run_cc("#include <linux/kvm.h>\n")?;
        if let Err(why) = probe {
            eprintln!("skipped, no usable <linux/kvm.h>: {why}");
            return None;
        }
        run_cc(&self.0)
    }

    fn assert(&self) {
        if let Some(Err(why)) = self.compile() {
            panic!("{why}\n{}", self.0);
        }
    }
}

fn run_cc(source: &str) -> Option<Result<(), String>> {
    let include = concat!(env!("CARGO_MANIFEST_DIR"), "/include");
    let child = Command::new("cc")
        .args([
            "-std=gnu11",
            "-Wall",
            "-Wextra",
            "-Wpadded",
            "-Werror=padded",
            "-fsyntax-only",
        ])
        .args(["-I", include, "-x", "c", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        eprintln!("skipped, no cc");
        return None;
    };
    child
        .stdin
        .take()
        .unwrap()
        .write_all(source.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    Some(match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    })
}

#[test]
fn structures_match_linux_kvm_h() {
    let mut c = Claims::new("<linux/kvm.h>");
    macro_rules! claim {
        ($($module:ident::$ours:ident $theirs:ident { $($($field:ident).+),* })*) => { $(
            c.size(stringify!($theirs), size_of::<$module::$ours>());
            $( c.offset(
                stringify!($theirs),
                stringify!($($field).+).trim_end_matches('_'),
                offset_of!($module::$ours, $($field).+),
            ); )*
        )* };
    }
    shared_structs!(claim);
    // Fields of anonymous unions, and bits that C has as an enumeration.
    c.offset(
        "kvm_coalesced_mmio_zone",
        "pio",
        offset_of!(bus::CoalescedZone, pio),
    );
    c.offset(
        "kvm_coalesced_mmio",
        "pio",
        offset_of!(bus::CoalescedWrite, pio),
    );
    c.assert();
}

#[test]
fn ring_matches_linux_kvm_h() {
    let mut c = Claims::new("<linux/kvm.h>");
    let in_page = |offset: usize| offset - bus::RING;
    let ring = "kvm_coalesced_mmio_ring";
    c.offset(ring, "first", in_page(bus::RING_FIRST));
    c.offset(ring, "last", in_page(bus::RING_LAST));
    c.offset(ring, "coalesced_mmio", in_page(bus::RING_ENTRIES));
    c.equal(
        "(4096 - sizeof(struct kvm_coalesced_mmio_ring)) / sizeof(struct kvm_coalesced_mmio)",
        bus::RING_LEN.into(),
    );
    for (flag, value) in [
        ("DATAMATCH", bus::KVM_IOEVENTFD_FLAG_DATAMATCH),
        ("PIO", bus::KVM_IOEVENTFD_FLAG_PIO),
        ("DEASSIGN", bus::KVM_IOEVENTFD_FLAG_DEASSIGN),
    ] {
        c.equal(&format!("KVM_IOEVENTFD_FLAG_{flag}"), value.into());
    }
    c.assert();
}

#[test]
fn exit_payloads_match_linux_kvm_h() {
    let mut c = Claims::new("<linux/kvm.h>");
    macro_rules! claim {
        ($($ours:ident $member:ident { $($field:ident),* })*) => { $( $(
            c.offset(
                "kvm_run",
                concat!(stringify!($member), ".", stringify!($field)),
                run::PAYLOAD + offset_of!(run::$ours, $field),
            );
            c.equal(
                concat!("sizeof(((struct kvm_run *)0)->", stringify!($member), ".",
                    stringify!($field), ")"),
                field_size(|x: &run::$ours| size_of_val(&x.$field)),
            );
        )* )* };
    }
    claim! {
        HwExit hw { hardware_exit_reason }
        FailEntry fail_entry { hardware_entry_failure_reason, cpu }
        IoExit io { direction, size, port, count, data_offset }
        MmioExit mmio { phys_addr, data, len, is_write }
        InternalError internal { suberror, ndata, data }
        EmulationFailure emulation_failure { suberror, ndata, flags, insn_size, insn_bytes }
    }
    c.assert();
}

fn field_size<T: Default>(size: impl Fn(&T) -> usize) -> u64 {
    size(&T::default()) as u64
}

#[test]
fn constants_match_linux_kvm_h() {
    let mut c = Claims::new("<linux/kvm.h>");
    macro_rules! claim {
        ($($module:ident: $($name:ident)+;)*) => { $($(
            c.equal_if_known(stringify!($name), $module::$name as u64);
        )+)* };
    }
    shared_constants!(claim);
    c.equal("EINVAL", subpage::EINVAL as u64);
    c.equal("E2BIG", subpage::E2BIG as u64);
    c.assert();
}

#[test]
fn ioctl_codes_match_linux_kvm_h() {
    let mut c = Claims::new("<linux/kvm.h>");
    macro_rules! claim {
        ($($name:ident)*) => { $( c.equal(stringify!($name), number::$name.into()); )* };
    }
    claim! {
        KVMIO KVM_API_VERSION
        KVM_GET_API_VERSION KVM_CREATE_VM KVM_GET_MSR_INDEX_LIST KVM_CHECK_EXTENSION
        KVM_GET_VCPU_MMAP_SIZE KVM_GET_SUPPORTED_CPUID KVM_GET_MSR_FEATURE_INDEX_LIST
        KVM_CREATE_VCPU KVM_SET_USER_MEMORY_REGION KVM_SET_TSS_ADDR KVM_SET_IDENTITY_MAP_ADDR
        KVM_REGISTER_COALESCED_MMIO KVM_UNREGISTER_COALESCED_MMIO KVM_IOEVENTFD
        KVM_ENABLE_CAP KVM_RUN KVM_GET_REGS KVM_SET_REGS KVM_GET_SREGS KVM_SET_SREGS
        KVM_INTERRUPT KVM_GET_MSRS KVM_SET_MSRS KVM_SET_SIGNAL_MASK KVM_GET_FPU KVM_SET_FPU
        KVM_SET_CPUID2 KVM_GET_CPUID2 KVM_GET_MP_STATE KVM_SET_MP_STATE KVM_NMI
        KVM_GET_VCPU_EVENTS KVM_SET_VCPU_EVENTS KVM_GET_DEBUGREGS KVM_SET_DEBUGREGS
        KVM_GET_TSC_KHZ KVM_GET_XSAVE KVM_SET_XSAVE KVM_GET_XCRS KVM_SET_XCRS
    }
    c.assert();
}

#[test]
fn our_own_header_matches() {
    let mut c = Claims::new("\"kvm_spp.h\"");
    macro_rules! constants {
        ($($module:ident: $($name:ident)*;)*) => { $($(
            c.equal(stringify!($name), $module::$name.into());
        )*)* };
    }
    constants! {
        number: KVM_SPP_SET_MAPS KVM_SPP_GET_MAPS;
        subpage: KVM_CAP_SPP KVM_SPP_CAP_HW KVM_SPP_CAP_SW KVM_EXIT_SPP KVM_SPP_MAX_PAGES
            KVM_SPP_EXIT_GVA_VALID KVM_SPP_EXIT_SIZE_VALID KVM_SPP_EXIT_INSN_LEN_VALID
            KVM_SPP_EXIT_EVENT_DELIVERY KVM_SPP_EXIT_PAGE_WALK KVM_SPP_EXIT_READ
            KVM_SPP_CAUSE_HARDWARE KVM_SPP_CAUSE_EMULATED;
    }
    macro_rules! claim {
        ($($ours:ident $theirs:ident { $($field:ident),* })*) => { $(
            c.size(stringify!($theirs), size_of::<subpage::$ours>());
            $( c.offset(stringify!($theirs), stringify!($field), offset_of!(subpage::$ours, $field)); )*
        )* };
    }
    claim! {
        Maps kvm_spp_maps { gpa, npages, maps, flags, reserved }
        SppExit kvm_spp_exit {
            flags, gpa, gva, rip, size, denied, map, cause, insn_len, insn_bytes, pad, insn, reserved
        }
    }
    c.assert();
    assert!(size_of::<subpage::SppExit>() <= run::PAYLOAD_SIZE);
}

#[test]
fn a_false_claim_does_not_compile() {
    let mut c = Claims::new("<linux/kvm.h> \"kvm_spp.h\"");
    c.equal("KVM_RUN", 0);
    if let Some(answer) = c.compile() {
        assert!(answer.unwrap_err().contains("KVM_RUN"));
    }
}
