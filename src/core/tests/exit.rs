// SPDX-License-Identifier: GPL-2.0

use super::*;

fn exit(reason: u16, qualification: u64) -> RawExit {
    RawExit {
        reason: u32::from(reason),
        qualification,
        ..RawExit::default()
    }
}

fn decode(reason: u16, qualification: u64) -> Exit {
    Exit::decode(&exit(reason, qualification))
}

#[test]
fn every_reason_decodes() {
    for basic in 0..=u16::MAX {
        let decoded = decode(basic, u64::MAX);
        if basic > 66 {
            assert_eq!(decoded, Exit::Other(basic));
        }
        let failed = RawExit {
            reason: u32::from(basic) | 1 << 31,
            ..RawExit::default()
        };
        assert!(matches!(Exit::decode(&failed), Exit::EntryFailure(_)));
    }
}

#[test]
fn reasons_by_the_manual() {
    for (basic, want) in [
        (1, Exit::ExternalInterrupt),
        (2, Exit::TripleFault),
        (7, Exit::InterruptWindow),
        (8, Exit::NmiWindow),
        (10, Exit::Cpuid),
        (12, Exit::Hlt),
        (18, Exit::Vmcall),
        (31, Exit::RdMsr),
        (32, Exit::WrMsr),
        (40, Exit::Pause),
        (54, Exit::Wbinvd),
        (55, Exit::Xsetbv),
        (17, Exit::Other(17)),
        (35, Exit::Other(35)),
    ] {
        assert_eq!(decode(basic, 0), want);
    }
    for vmx in (19..=27).chain([11, 50, 53, 59, 60]) {
        assert_eq!(decode(vmx, 0), Exit::Undefined, "{vmx}");
    }
}

#[test]
fn entry_failures() {
    let failed = |basic: u32| RawExit {
        reason: basic | 1 << 31,
        qualification: 4,
        ..RawExit::default()
    };
    for (basic, want) in [
        (33, EntryFailure::GuestState(4)),
        (34, EntryFailure::MsrLoading(4)),
        (41, EntryFailure::MachineCheck),
        (48, EntryFailure::Other(48)),
    ] {
        assert_eq!(Exit::decode(&failed(basic)), Exit::EntryFailure(want));
    }
}

#[test]
fn ports() {
    // OUT 0x3f8, AL; IN EAX, 0xcfc; REP OUTSW 0xffff.
    for (qualification, port, size, input, string, rep) in [
        (0x03f8_0000, 0x3f8, 1, false, false, false),
        (0x0cfc_000b, 0xcfc, 4, true, false, false),
        (0xffff_0031, 0xffff, 2, false, true, true),
    ] {
        let want = IoExit {
            port,
            size,
            input,
            string,
            rep,
        };
        assert_eq!(decode(30, qualification), Exit::Io(want));
    }
}

#[test]
fn control_and_debug_registers() {
    assert_eq!(
        decode(28, 0x0f04),
        Exit::Cr(CrAccess::To { cr: 4, gpr: 15 })
    );
    assert_eq!(
        decode(28, 0x0318),
        Exit::Cr(CrAccess::From { cr: 8, gpr: 3 })
    );
    assert_eq!(decode(28, 0x20), Exit::Cr(CrAccess::Clts));
    assert_eq!(decode(28, 0xabcd_0030), Exit::Cr(CrAccess::Lmsw(0xabcd)));
    let want = DrAccess {
        dr: 7,
        gpr: 9,
        from: true,
    };
    assert_eq!(decode(29, 0x0917), Exit::Dr(want));
}

#[test]
fn exceptions() {
    let with = |info: u32| {
        let mut raw = exit(0, 0x4001);
        raw.intr_info = 1 << 31 | info;
        raw.intr_error = 0x55;
        Exit::decode(&raw)
    };
    assert_eq!(with(0x202), Exit::ExceptionOrNmi(ExceptionOrNmi::Nmi));
    assert_eq!(
        with(0x312),
        Exit::ExceptionOrNmi(ExceptionOrNmi::MachineCheck)
    );
    for (info, icebp) in [(0x301, false), (0x501, true)] {
        assert_eq!(
            with(info),
            Exit::ExceptionOrNmi(ExceptionOrNmi::Debug {
                conditions: 0x4001,
                icebp
            })
        );
    }
    for (info, vector, error_code) in [(0xb11, 17, Some(0x55)), (0x306, 6, None)] {
        assert_eq!(
            with(info),
            Exit::ExceptionOrNmi(ExceptionOrNmi::Exception { vector, error_code })
        );
    }
}

#[test]
fn ept_violations() {
    let mut raw = exit(48, 0x18a);
    raw.gpa = 0x1234;
    raw.gla = 0xffff_8000_0000_1234;
    let base = Violation {
        gpa: Gpa::new(0x1234),
        gla: Some(Gva::new(0xffff_8000_0000_1234)),
        read: false,
        write: true,
        fetch: false,
        final_translation: true,
        asynchronous: false,
        event_delivery: false,
    };
    assert_eq!(Exit::decode(&raw), Exit::EptViolation(base));
    // A page walk with accessed and dirty flags: read and write, bit 8 clear.
    raw.qualification = 0x83;
    raw.idt_info = 1 << 31;
    assert_eq!(
        Exit::decode(&raw),
        Exit::EptViolation(Violation {
            read: true,
            final_translation: false,
            event_delivery: true,
            ..base
        })
    );
    raw.qualification = 0x1_0104;
    raw.idt_info = 0;
    assert_eq!(
        Exit::decode(&raw),
        Exit::EptViolation(Violation {
            gla: None,
            write: false,
            fetch: true,
            final_translation: false,
            asynchronous: true,
            ..base
        })
    );
}

#[test]
fn spp_events() {
    let mut raw = exit(66, 1 << 11);
    raw.gpa = 0x8080;
    raw.gla = 0x70_8080;
    let event = SppEvent {
        gpa: Gpa::new(0x8080),
        gla: Gva::new(0x70_8080),
        asynchronous: false,
    };
    assert_eq!(Exit::decode(&raw), Exit::SppMiss(event));
    raw.qualification = 1 << 12 | 1 << 16;
    let event = SppEvent {
        asynchronous: true,
        ..event
    };
    assert_eq!(Exit::decode(&raw), Exit::SppMisconfig(event));
}

#[test]
fn instruction_length_is_not_trusted_where_undefined() {
    for basic in 0..=80u16 {
        let mut raw = exit(basic, 0);
        raw.insn_len = 2;
        let undefined = [1, 2, 3, 4, 7, 8, 33, 34, 37, 41, 48, 49, 52, 66, 0];
        if undefined.contains(&basic) {
            assert_eq!(raw.instruction_len(), None, "{basic}");
        }
        let defined = [9, 10, 12, 13, 18, 28, 30, 31, 32, 36, 39, 40, 54, 55];
        if defined.contains(&basic) {
            assert_eq!(raw.instruction_len(), Some(2), "{basic}");
        }
        for bad in [0, 16, u32::MAX] {
            raw.insn_len = bad;
            assert_eq!(raw.instruction_len(), None, "{basic}");
        }
    }
    let mut int3 = exit(0, 0);
    int3.intr_info = 1 << 31 | 0x603;
    int3.insn_len = 1;
    assert_eq!(int3.instruction_len(), Some(1));
}

#[test]
fn nmi_unblocking_counts_only_without_event_delivery() {
    for basic in [48, 66] {
        let mut raw = exit(basic, 1 << 12);
        assert!(raw.iret_unblocked_nmi(), "{basic}");
        raw.idt_info = 1 << 31;
        assert!(!raw.iret_unblocked_nmi(), "{basic}");
    }
    assert!(!exit(12, 1 << 12).iret_unblocked_nmi());
    let mut raw = exit(0, 0);
    raw.intr_info = 1 << 31 | 1 << 12 | 0x30d;
    assert!(raw.iret_unblocked_nmi());
    // A double fault leaves the bit undefined.
    raw.intr_info = 1 << 31 | 1 << 12 | 0x308;
    assert!(!raw.iret_unblocked_nmi());
}

#[test]
fn task_switches() {
    for (source, want) in [
        (0, TaskSource::Call),
        (1, TaskSource::Iret),
        (2, TaskSource::Jmp),
        (3, TaskSource::Gate),
    ] {
        let want = TaskSwitch {
            selector: 0xfedb,
            source: want,
        };
        let decoded = decode(9, source << 30 | 0x3fff_0000 | 0xfedb);
        assert_eq!(decoded, Exit::TaskSwitch(want));
    }
}

/// An event that no instruction asks for leaves the length undefined.
#[test]
fn task_switches_have_a_length_where_an_instruction_asks() {
    let mut raw = exit(9, 3 << 30);
    raw.insn_len = 2;
    for kind in 0..8 {
        raw.idt_info = 1 << 31 | kind << 8;
        let want = (4..=6).contains(&kind).then_some(2);
        assert_eq!(raw.instruction_len(), want, "{kind}");
    }
    raw.idt_info = 0;
    assert_eq!(raw.instruction_len(), Some(2));
}
