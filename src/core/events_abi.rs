// SPDX-License-Identifier: GPL-2.0

//! `struct kvm_vcpu_events` from and to the events of a vCPU (KVM api.rst 4.31
//! and 4.32).

use ioctl_api::vcpu::{
    ExceptionEvent, InterruptEvent, NmiEvent, VcpuEvents, KVM_VCPUEVENT_VALID_NMI_PENDING,
    KVM_VCPUEVENT_VALID_SHADOW, KVM_VCPUEVENT_VALID_SIPI_VECTOR, KVM_VCPUEVENT_VALID_SMM,
    KVM_X86_SHADOW_INT_MOV_SS, KVM_X86_SHADOW_INT_STI,
};

use crate::errno::Errno;
use crate::event::{Events, Exception, Interruptibility, Origin, SoftwareInterrupt};

/// Flags that may be set: exception payloads and the triple fault need
/// capabilities that this device does not have.
const KNOWN_FLAGS: u32 = KVM_VCPUEVENT_VALID_NMI_PENDING
    | KVM_VCPUEVENT_VALID_SIPI_VECTOR
    | KVM_VCPUEVENT_VALID_SHADOW
    | KVM_VCPUEVENT_VALID_SMM;

/// Length of INT n without prefixes, in bytes: the ABI does not carry one.
const INT_N_LEN: u8 = 2;

/// What `KVM_SET_VCPU_EVENTS` changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewEvents {
    /// The events.
    pub events: Events,
    /// New bits 1:0 (MOV SS, STI) of the interruptibility state, if given.
    pub shadow: Option<u32>,
    /// New virtual-NMI blocking.
    pub nmi_blocked: bool,
}

/// `KVM_GET_VCPU_EVENTS`.
pub fn save(events: &Events, state: &Interruptibility) -> VcpuEvents {
    let mut shadow = 0;
    if state.blocked_by_sti {
        shadow |= KVM_X86_SHADOW_INT_STI;
    }
    if state.mov_ss {
        shadow |= KVM_X86_SHADOW_INT_MOV_SS;
    }
    VcpuEvents {
        exception: save_exception(events),
        interrupt: InterruptEvent {
            // INT n is not reported, for it will be executed again.
            injected: u8::from(events.interrupt.is_some()),
            nr: events.interrupt.unwrap_or(0),
            soft: 0,
            shadow,
        },
        nmi: NmiEvent {
            injected: u8::from(events.nmi_injected),
            pending: events.nmi_pending,
            masked: u8::from(state.nmi_blocked),
            pad: 0,
        },
        flags: KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW,
        ..VcpuEvents::default()
    }
}

fn save_exception(events: &Events) -> ExceptionEvent {
    let Some(exception) = events.exception else {
        return ExceptionEvent::default();
    };
    // The ABI has no instruction length, and RIP still points at the
    // instruction that raises a software exception: it will come again.
    let reported = u8::from(exception.origin == Origin::Hardware);
    ExceptionEvent {
        injected: reported,
        nr: exception.vector,
        has_error_code: u8::from(exception.has_error_code()),
        pending: reported,
        error_code: exception.error_code,
    }
}

/// `KVM_SET_VCPU_EVENTS` over the `current` events.
///
/// # Errors
///
/// `EINVAL` for unknown flags, for a vector that is not an exception, and for
/// SMM state, which this device does not have. Nothing has changed then.
pub fn load(current: &Events, abi: &VcpuEvents) -> Result<NewEvents, Errno> {
    let smm = abi.smi.smm != 0 || abi.smi.pending != 0 || abi.smi.smm_inside_nmi != 0;
    let exception = abi.exception.injected != 0;
    if abi.flags & !KNOWN_FLAGS != 0
        || (exception && (abi.exception.nr > 31 || abi.exception.nr == 2))
        || (abi.flags & KVM_VCPUEVENT_VALID_SMM != 0 && smm)
    {
        return Err(Errno::Einval);
    }
    let nmi_blocked = abi.nmi.masked != 0;
    let interrupt = (abi.interrupt.injected != 0).then_some(abi.interrupt.nr);
    let soft = abi.interrupt.soft != 0;
    let mut events = Events {
        exception: exception.then(|| load_exception(&abi.exception)),
        software: interrupt.filter(|_| soft).map(load_software_interrupt),
        interrupt: interrupt.filter(|_| !soft),
        nmi_injected: abi.nmi.injected != 0,
        ..*current
    };
    if abi.flags & KVM_VCPUEVENT_VALID_NMI_PENDING != 0 {
        events.nmi_pending = 0;
        for _ in 0..abi.nmi.pending.min(2) {
            events.queue_nmi(nmi_blocked);
        }
    }
    let shadow = abi.flags & KVM_VCPUEVENT_VALID_SHADOW != 0;
    Ok(NewEvents {
        events,
        shadow: shadow.then(|| load_shadow(abi.interrupt.shadow)),
        nmi_blocked,
    })
}

fn load_exception(abi: &ExceptionEvent) -> Exception {
    let origin = match abi.nr {
        // #BP and #OF come from one-byte INT3 and INTO.
        3 | 4 => Origin::Software { len: 1 },
        _ => Origin::Hardware,
    };
    Exception {
        vector: abi.nr,
        error_code: if abi.has_error_code != 0 {
            abi.error_code
        } else {
            0
        },
        origin,
    }
}

const fn load_software_interrupt(vector: u8) -> SoftwareInterrupt {
    SoftwareInterrupt {
        vector,
        len: INT_N_LEN,
    }
}

fn load_shadow(shadow: u8) -> u32 {
    // VM entry refuses both at once (SDM 3C 27.3.1.5); MOV SS blocks more.
    if shadow & KVM_X86_SHADOW_INT_MOV_SS != 0 {
        2
    } else if shadow & KVM_X86_SHADOW_INT_STI != 0 {
        1
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Exception;

    const OPEN: Interruptibility = Interruptibility {
        if_flag: true,
        blocked_by_sti: false,
        mov_ss: false,
        nmi_blocked: false,
        protected: true,
    };

    #[test]
    fn round_trip() {
        let mut events = Events::new();
        events.raise(Exception::hardware(14, 6));
        events.queue_interrupt(0x31);
        events.queue_nmi(false);
        events.queue_nmi(false);
        events.nmi_injected = true;
        let abi = save(&events, &OPEN);
        let mut loaded = load(&Events::new(), &abi).unwrap();
        // One NMI is latched beside the one in delivery.
        events.nmi_pending = 1;
        assert_eq!(loaded.events, events);
        assert_eq!(loaded.shadow, Some(0));
        assert!(!loaded.nmi_blocked);
        assert_eq!(loaded.events.inject(&OPEN).unwrap().intr_info, 0x8000_0b0e);
    }

    #[test]
    fn software_interrupts() {
        let mut abi = VcpuEvents::default();
        (abi.interrupt.injected, abi.interrupt.nr, abi.interrupt.soft) = (1, 0x80, 1);
        let mut current = Events::new();
        current.queue_interrupt(0x31);
        let mut loaded = load(&current, &abi).unwrap().events;
        assert_eq!(save(&loaded, &OPEN).interrupt.injected, 0);
        let injection = loaded.inject(&OPEN).unwrap();
        assert_eq!((injection.intr_info, injection.insn_len), (0x8000_0480, 2));
        assert!(!loaded.any());
        // It goes as it comes.
        let before = load(&current, &abi).unwrap().events;
        let after = load(&before, &VcpuEvents::default()).unwrap().events;
        assert!(!after.any());
    }

    #[test]
    fn shadow_and_mask() {
        for (sti, mov_ss, bits) in [(false, false, 0), (true, false, 1), (false, true, 2)] {
            let state = Interruptibility {
                blocked_by_sti: sti,
                mov_ss,
                nmi_blocked: sti,
                ..OPEN
            };
            let loaded = load(&Events::new(), &save(&Events::new(), &state)).unwrap();
            assert_eq!(loaded.shadow, Some(bits));
            assert_eq!(loaded.nmi_blocked, sti);
        }
        assert_eq!(load_shadow(3), 2);
        let unset = VcpuEvents::default();
        assert_eq!(load(&Events::new(), &unset).unwrap().shadow, None);
    }

    #[test]
    fn pending_nmis_stay_without_the_flag() {
        let mut events = Events::new();
        events.queue_nmi(false);
        let loaded = load(&events, &VcpuEvents::default()).unwrap();
        assert_eq!(loaded.events.nmi_pending, 1);
        let none = VcpuEvents {
            flags: KVM_VCPUEVENT_VALID_NMI_PENDING,
            ..VcpuEvents::default()
        };
        assert_eq!(load(&events, &none).unwrap().events.nmi_pending, 0);
    }

    #[test]
    fn bad_input_is_refused() {
        let bad = |change: fn(&mut VcpuEvents)| {
            let mut abi = VcpuEvents::default();
            change(&mut abi);
            load(&Events::new(), &abi)
        };
        let refused: [fn(&mut VcpuEvents); 7] = [
            |e| e.flags = 1 << 4,
            |e| e.flags = 1 << 5,
            |e| e.flags = 1 << 31,
            |e| (e.exception.injected, e.exception.nr) = (1, 32),
            |e| (e.exception.injected, e.exception.nr) = (1, 2),
            |e| (e.flags, e.smi.smm) = (8, 1),
            |e| (e.flags, e.smi.pending) = (8, 1),
        ];
        for change in refused {
            assert_eq!(bad(change), Err(Errno::Einval));
        }
        assert!(bad(|e| e.exception.nr = 32).is_ok(), "not injected");
        assert!(bad(|e| e.smi.smm = 1).is_ok(), "flag not set");
        assert!(bad(|e| e.flags = 0xf).is_ok());
    }

    #[test]
    fn software_exception_is_not_reported() {
        let mut events = Events::new();
        events.raise(Exception {
            vector: 3,
            error_code: 0,
            origin: Origin::Software { len: 1 },
        });
        assert_eq!(save(&events, &OPEN).exception.injected, 0);
    }
}
