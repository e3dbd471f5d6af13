// SPDX-License-Identifier: GPL-2.0

use super::*;
use ioctl_api::subpage::{KVM_SPP_CAUSE_HARDWARE, KVM_SPP_EXIT_GVA_VALID};
use zerocopy::IntoBytes;

fn payload(value: &[u8]) -> [u8; PAYLOAD_SIZE] {
    let mut bytes = [0xcc; PAYLOAD_SIZE];
    bytes[..value.len()].copy_from_slice(value);
    bytes
}

#[test]
fn a_denied_write_has_its_payload() {
    let exit = SppExit {
        flags: KVM_SPP_EXIT_GVA_VALID,
        gpa: 0x10_0280,
        gva: 0x7f00_0000_0280,
        denied: 1 << 5,
        map: !(1 << 5),
        cause: KVM_SPP_CAUSE_HARDWARE,
        ..Default::default()
    };
    let decoded = Decoded::from(VcpuExit::Unsupported(0x5350_0001));
    assert_eq!(decoded.with(&payload(exit.as_bytes())), Exit::Spp(exit));
}

#[test]
fn other_unknown_exits_are_not_taken_for_it() {
    let decoded = Decoded::from(VcpuExit::Unsupported(0x5350_0002));
    let Exit::Other(text) = decoded.with(&payload(&[])) else {
        panic!()
    };
    assert!(text.contains("Unsupported"), "{text}");
}

#[test]
fn errors_have_their_payload() {
    let error = InternalError {
        suberror: 4,
        ndata: 1,
        data: [66; 16],
    };
    let decoded = Decoded::from(VcpuExit::InternalError);
    assert_eq!(
        decoded.with(&payload(error.as_bytes())),
        Exit::InternalError(error)
    );
    let fail = FailEntry {
        hardware_entry_failure_reason: 0x8000_0021,
        cpu: 1,
        pad: 0,
    };
    let decoded = Decoded::from(VcpuExit::FailEntry(0, 0));
    assert_eq!(
        decoded.with(&payload(fail.as_bytes())),
        Exit::FailEntry(fail)
    );
}

#[test]
fn data_is_copied_out() {
    let decoded = Decoded::from(VcpuExit::IoOut(0xf4, &[1, 2]));
    assert_eq!(decoded.with(&payload(&[])), Exit::Out(0xf4, vec![1, 2]));
}
