// SPDX-License-Identifier: GPL-2.0

//! The x87 and SSE registers in the structure of the ABI (KVM api.rst 4.22, 4.23).

use crate::vmx::fpu::{
    put,
    GuestFpu, //
};
use ioctl_api::regs::Fpu;
use kernel::prelude::*;

impl GuestFpu {
    /// KVM_GET_FPU: the legacy region of the XSAVE area, rearranged.
    pub(crate) fn registers(&self) -> Fpu {
        let image = self.image();
        let mut fpu = Fpu {
            fcw: number(image, 0, 2) as u16,
            fsw: number(image, 2, 2) as u16,
            ftwx: number(image, 4, 1) as u8,
            last_opcode: number(image, 6, 2) as u16,
            last_ip: number(image, 8, 8),
            last_dp: number(image, 16, 8),
            mxcsr: number(image, 24, 4) as u32,
            ..Fpu::default()
        };
        let registers = image.get(32..).unwrap_or(&[]);
        let all = Iterator::chain(fpu.fpr.iter_mut(), &mut fpu.xmm);
        for (to, from) in all.zip(registers.chunks(16)) {
            put(to, 0, from);
        }
        fpu
    }

    /// KVM_SET_FPU: `EINVAL` for reserved MXCSR bits.
    pub(crate) fn set_registers(&mut self, fpu: &Fpu) -> Result {
        let mut legacy = [0; 416];
        let (head, registers) = legacy.split_at_mut(32);
        put(head, 0, &fpu.fcw.to_le_bytes());
        put(head, 2, &fpu.fsw.to_le_bytes());
        put(head, 4, &[fpu.ftwx]);
        put(head, 6, &fpu.last_opcode.to_le_bytes());
        put(head, 8, &fpu.last_ip.to_le_bytes());
        put(head, 16, &fpu.last_dp.to_le_bytes());
        put(head, 24, &fpu.mxcsr.to_le_bytes());
        put(head, 28, &self.mxcsr_mask().to_le_bytes());
        let all = Iterator::chain(fpu.fpr.iter(), &fpu.xmm);
        for (to, from) in registers.chunks_mut(16).zip(all) {
            put(to, 0, from);
        }
        self.set_legacy(&legacy)
    }
}

/// A little-endian number of `len` bytes at `at`.
fn number(bytes: &[u8], at: usize, len: usize) -> u64 {
    let mut value = 0;
    for byte in bytes.iter().skip(at).take(len).rev() {
        value = (value << 8) | u64::from(*byte);
    }
    value
}
