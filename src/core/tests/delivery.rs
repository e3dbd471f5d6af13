// SPDX-License-Identifier: GPL-2.0

use super::*;
use crate::event::{Events, Exception, Interruptibility, Origin};

const PROTECTED: Interruptibility = Interruptibility {
    if_flag: true,
    blocked_by_sti: false,
    mov_ss: false,
    nmi_blocked: false,
    protected: true,
};

fn fields(intr_info: u32) -> Injection {
    Injection {
        intr_info,
        error_code: 0x1234,
        insn_len: 3,
    }
}

/// The types by their numbers, and whether an instruction has asked.
#[test]
fn types() {
    for (number, kind, len) in [
        (0, Kind::External, 0),
        (2, Kind::Nmi, 0),
        (3, Kind::Exception, 0),
        (4, Kind::SoftwareInterrupt, 3),
        (5, Kind::PrivilegedSoftwareException, 3),
        (6, Kind::SoftwareException, 3),
    ] {
        let want = Delivery {
            vector: 0xa5,
            kind,
            error_code: None,
            len,
        };
        let info = 0x8000_00a5 | number << 8;
        assert_eq!(fields(info).delivery(), Some(want));
        let want = Delivery {
            error_code: Some(0x1234),
            ..want
        };
        assert_eq!(fields(info | 0x800).delivery(), Some(want));
        assert_eq!(fields(info & 0x7fff_ffff).delivery(), None);
    }
    for other in [1, 7] {
        assert_eq!(fields(0x8000_0000 | other << 8).delivery(), None);
    }
}

/// What goes in comes out.
#[test]
fn events_that_wait() {
    let mut events = Events::new();
    events.raise(Exception::hardware(14, 0x1_0002));
    let delivery = events.inject(&PROTECTED).and_then(|i| i.delivery());
    let want = Delivery {
        vector: 14,
        kind: Kind::Exception,
        error_code: Some(2),
        len: 0,
    };
    assert_eq!(delivery, Some(want));
    events.raise(Exception {
        vector: 3,
        error_code: 0,
        origin: Origin::Software { len: 1 },
    });
    let delivery = events.inject(&PROTECTED).and_then(|i| i.delivery());
    let want = Delivery {
        vector: 3,
        kind: Kind::SoftwareException,
        error_code: None,
        len: 1,
    };
    assert_eq!(delivery, Some(want));
    events.queue_interrupt(0x31);
    events.queue_nmi(false);
    let mut next = || events.inject(&PROTECTED).and_then(|i| i.delivery());
    let kinds = [next(), next()].map(|delivery| delivery.map(|d| (d.kind, d.vector)));
    let want = [Some((Kind::Nmi, 2)), Some((Kind::External, 0x31))];
    assert_eq!(kinds, want);
}

#[test]
fn interruptibility_in_the_handler() {
    for kind in [Kind::External, Kind::Nmi, Kind::SoftwareInterrupt] {
        let delivery = Delivery {
            vector: 2,
            kind,
            error_code: None,
            len: 0,
        };
        for before in 0..32 {
            // STI, MOV SS, SMI, NMI, enclave.
            let mut want = before & 0b11100;
            if kind == Kind::Nmi {
                want |= 0b1000;
            }
            assert_eq!(delivery.interruptibility(before), want);
            let kept = kind == Kind::SoftwareInterrupt && before & 2 != 0;
            assert_eq!(delivery.drops_debug_exceptions(before), !kept);
        }
    }
}
