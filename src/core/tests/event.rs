// SPDX-License-Identifier: GPL-2.0

use super::*;

const OPEN: Interruptibility = Interruptibility {
    if_flag: true,
    blocked_by_sti: false,
    mov_ss: false,
    nmi_blocked: false,
    protected: true,
};

fn idt(info: u32) -> RawExit {
    RawExit {
        reason: 48,
        idt_info: VALID | info,
        ..RawExit::default()
    }
}

/// SDM 3A table 6-5, spelled out by hand for one vector of each class.
#[test]
fn double_fault_table() {
    let benign = [1, 3, 6, 7, 16, 17, 19];
    let contributory = [0, 10, 11, 12, 13];
    let page_fault = [14];
    let mut expected = std::collections::BTreeMap::new();
    for first in benign.iter().chain(&contributory).chain(&page_fault) {
        for second in benign.iter().chain(&contributory).chain(&page_fault) {
            let double = (contributory.contains(first) && contributory.contains(second))
                || (page_fault.contains(first) && !benign.contains(second));
            expected.insert((*first, *second), double);
        }
    }
    for ((first, second), double) in expected {
        let mut events = Events::new();
        events.raise(Exception::hardware(first, 0));
        events.raise(Exception::hardware(second, 7));
        let want = if double { DF } else { second };
        assert_eq!(events.exception.unwrap().vector, want, "{first} {second}");
        assert!(!events.triple_fault());
    }
}

#[test]
fn fault_on_double_fault_is_a_triple_fault() {
    for second in [0, 10, 11, 12, 13, 14] {
        let mut events = Events::new();
        events.raise(Exception::hardware(DF, 0));
        events.raise(Exception::hardware(second, 0));
        assert!(events.triple_fault(), "{second}");
        assert_eq!(events.exception, None);
    }
}

#[test]
fn exception_then_nmi_then_interrupt() {
    let mut events = Events::new();
    events.queue_interrupt(0x20);
    events.queue_nmi(false);
    events.raise(Exception::GP);
    let order: std::vec::Vec<u32> = core::iter::from_fn(|| events.inject(&OPEN))
        .map(|i| i.intr_info)
        .collect();
    assert_eq!(order, [0x8000_0b0d, 0x8000_0202, 0x8000_0020]);
    assert!(!events.any());
}

#[test]
fn interrupt_waits_for_every_kind_of_blocking() {
    for bits in 0..8u32 {
        let state = Interruptibility {
            if_flag: bits & 1 != 0,
            blocked_by_sti: bits & 2 != 0,
            mov_ss: bits & 4 != 0,
            ..OPEN
        };
        let mut events = Events::new();
        events.queue_interrupt(0x30);
        let injected = events.inject(&state).is_some();
        assert_eq!(injected, bits == 1, "{state:?}");
        assert_eq!(events.windows(&state, false).interrupt, !injected);
    }
}

#[test]
fn nmi_waits_for_every_kind_of_blocking() {
    for bits in 0..16u32 {
        let state = Interruptibility {
            nmi_blocked: bits & 1 != 0,
            blocked_by_sti: bits & 2 != 0,
            mov_ss: bits & 4 != 0,
            if_flag: bits & 8 != 0,
            ..OPEN
        };
        let mut events = Events::new();
        events.queue_nmi(false);
        let injected = events.inject(&state).is_some();
        assert_eq!(injected, bits & 7 == 0, "{state:?}");
        let windows = events.windows(&state, false);
        assert_eq!(windows.nmi || windows.interrupt, !injected, "{state:?}");
        if bits & 3 == 2 {
            assert!(windows.interrupt && !windows.nmi, "{state:?}");
        }
    }
}

#[test]
fn at_most_two_nmis_wait() {
    let mut events = Events::new();
    for _ in 0..5 {
        events.queue_nmi(false);
    }
    assert_eq!(events.nmi_pending, 2);
    let mut events = Events::new();
    events.queue_nmi(true);
    events.queue_nmi(true);
    assert_eq!(events.nmi_pending, 1);
}

#[test]
fn what_is_left_asks_for_windows() {
    let mut events = Events::new();
    events.raise(Exception::UD);
    events.queue_interrupt(0x40);
    events.queue_nmi(false);
    assert_eq!(events.inject(&OPEN).unwrap().intr_info, 0x8000_0306);
    let windows = events.windows(&OPEN, false);
    assert!(windows.interrupt && windows.nmi);
    assert!(Events::new().windows(&OPEN, true).interrupt);
    assert_eq!(Events::new().windows(&OPEN, false), Windows::default());
}

#[test]
fn error_code_only_where_the_vector_has_one_and_in_protected_mode() {
    for vector in (0..32u8).filter(|v| *v != NMI_VECTOR) {
        for protected in [false, true] {
            let mut events = Events::new();
            events.raise(Exception::hardware(vector, 0x1_0010));
            let state = Interruptibility { protected, ..OPEN };
            let injection = events.inject(&state).unwrap();
            let has = [8, 10, 11, 12, 13, 14, 17].contains(&vector) && protected;
            assert_eq!(injection.intr_info & HAS_ERROR_CODE != 0, has, "{vector}");
            assert_eq!(injection.error_code, if has { 0x10 } else { 0 }, "{vector}");
        }
    }
}

#[test]
fn interrupted_delivery_is_repeated() {
    // Type, vector, error valid -> what the next entry injects.
    let cases = [
        (0x020, 0x8000_0020, 0),
        (0x202, 0x8000_0202, 0),
        (0xb0d, 0x8000_0b0d, 0),
        (0x306, 0x8000_0306, 0),
        (0x480, 0x8000_0480, 3),
        (0x501, 0x8000_0501, 3),
        (0x603, 0x8000_0603, 3),
    ];
    for (info, intr_info, insn_len) in cases {
        let mut events = Events::new();
        let mut raw = idt(info);
        raw.insn_len = 3;
        raw.idt_error = 0x18;
        let nmi = events.reinject(&raw);
        let want = if info >> 8 & 7 == 2 {
            NmiBlocking::Clear
        } else {
            NmiBlocking::Keep
        };
        assert_eq!(nmi, want, "{info:#x}");
        let injection = events.inject(&OPEN).unwrap();
        assert_eq!(injection.intr_info, intr_info, "{info:#x}");
        assert_eq!(injection.insn_len, insn_len, "{info:#x}");
        if info & HAS_ERROR_CODE != 0 {
            assert_eq!(injection.error_code, 0x18);
        }
        assert!(!events.any());
    }
}

#[test]
fn an_interrupted_nmi_waits_for_nothing() {
    let mut events = Events::new();
    events.reinject(&idt(0x202));
    events.queue_nmi(true);
    let blocked = Interruptibility {
        nmi_blocked: true,
        ..OPEN
    };
    let count = core::iter::from_fn(|| events.inject(&blocked)).count();
    assert_eq!(count, 1, "the other one waits");
    assert_eq!(events.nmi_pending, 1);
}

#[test]
fn cancelled_entry_loses_nothing() {
    for setup in [
        |e: &mut Events| e.raise(Exception::hardware(14, 6)),
        |e: &mut Events| e.queue_interrupt(0x99),
        |e: &mut Events| e.queue_nmi(false),
    ] {
        let mut events = Events::new();
        setup(&mut events);
        let first = events.inject(&OPEN).unwrap();
        assert!(!events.any());
        events.cancel(&first);
        assert_eq!(events.inject(&OPEN), Some(first));
    }
}

#[test]
fn fault_during_software_interrupt_replaces_it() {
    let mut events = Events::new();
    let mut raw = idt(0x480);
    raw.insn_len = 2;
    events.reinject(&raw);
    events.raise(Exception::hardware(14, 0));
    assert_eq!(events.inject(&OPEN).unwrap().intr_info, 0x8000_0b0e);
    assert!(!events.any());
    // An external interrupt is not repeated by the guest, so it stays.
    events.reinject(&idt(0x80));
    events.raise(Exception::hardware(14, 0));
    events.inject(&OPEN);
    assert_eq!(events.inject(&OPEN).unwrap().intr_info, 0x8000_0080);
}

#[test]
fn software_interrupt_needs_no_open_window() {
    let mut events = Events::new();
    let mut raw = idt(0x480);
    raw.insn_len = 2;
    events.reinject(&raw);
    events.queue_nmi(false);
    let closed = Interruptibility {
        if_flag: false,
        ..OPEN
    };
    assert_eq!(events.inject(&closed).unwrap().intr_info, 0x8000_0480);
    assert_eq!(events.inject(&closed).unwrap().intr_info, 0x8000_0202);
}

/// INT n with interrupts off, or an NMI before: what waits is not lost.
#[test]
fn an_interrupted_software_interrupt_replaces_nothing() {
    let mut events = Events::new();
    events.queue_interrupt(0x31);
    events.queue_nmi(false);
    let mut raw = idt(0x480);
    raw.insn_len = 2;
    events.reinject(&raw);
    assert_eq!(events.external_interrupt(), Some(0x31));
    let mut closed = OPEN;
    closed.if_flag = false;
    assert!(!events.ready_for_interrupt(&OPEN));
    assert!(events.wakes(&closed));
    let mut next = |state| events.inject(state).map(|injection| injection.intr_info);
    assert_eq!(next(&closed), Some(0x8000_0480));
    assert_eq!(next(&closed), Some(0x8000_0202));
    assert_eq!(next(&closed), None);
    assert_eq!(next(&OPEN), Some(0x8000_0031));
    assert!(!events.any());
    // A fault of INT n is none of the interrupt's.
    events.queue_interrupt(0x31);
    events.reinject(&raw);
    events.raise(Exception::GP);
    assert_eq!(events.inject(&OPEN).unwrap().intr_info, 0x8000_0b0d);
    assert_eq!(events.inject(&OPEN).unwrap().intr_info, 0x8000_0031);
    assert!(!events.any());
}

#[test]
fn iret_unblocking_is_put_back_unless_an_event_was_delivered() {
    let mut events = Events::new();
    let mut raw = RawExit {
        reason: 66,
        qualification: 1 << 12,
        ..RawExit::default()
    };
    assert_eq!(events.reinject(&raw), NmiBlocking::Set);
    raw.idt_info = VALID | 0x20;
    assert_eq!(events.reinject(&raw), NmiBlocking::Keep);
    raw.idt_info = 0;
    raw.qualification = 0;
    assert_eq!(events.reinject(&raw), NmiBlocking::Keep);
}

#[test]
fn ready_for_interrupt_needs_an_idle_vcpu() {
    assert!(Events::new().ready_for_interrupt(&OPEN));
    let mut events = Events::new();
    events.queue_interrupt(0x20);
    assert!(!events.ready_for_interrupt(&OPEN));
    let mut events = Events::new();
    events.raise(Exception::GP);
    assert!(!events.ready_for_interrupt(&OPEN));
    let closed = Interruptibility {
        blocked_by_sti: true,
        ..OPEN
    };
    assert!(!Events::new().ready_for_interrupt(&closed));
}

#[test]
fn interruptibility_field_bits() {
    let state = Interruptibility::new(0b1001, 1 << 9, 1);
    assert_eq!(
        state,
        Interruptibility {
            if_flag: true,
            blocked_by_sti: true,
            mov_ss: false,
            nmi_blocked: true,
            protected: true,
        }
    );
    assert!(Interruptibility::new(0b10, 0, 0).mov_ss);
}
