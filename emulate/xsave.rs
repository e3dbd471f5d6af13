// SPDX-License-Identifier: GPL-2.0

//! XMM and YMM registers in a vCPU's XSAVE area, in the standard format (SDM 1 13.4).
//!
//! ```text
//!      0  160                 512        576        832    1152        1664
//!      +---+------------------+----------+----------+- - - +-----------+
//!      |   | XMM0 .. XMM15    | XSTATE_BV| YMM_Hi128|      | ZMM_Hi256 |
//!      +---+------------------+----------+----------+- - - +-----------+
//!          bits 127:0                     255:128           511:256
//! ```
//!
//! A component whose bit in XSTATE_BV is 0 is in its initial configuration: its
//! registers are zero whatever the area holds (SDM 1 13.6).

/// Bytes of XMM0 and what is above it, up to bit 255.
pub(crate) type Ymm = [u8; 32];
/// Bytes of an XMM register.
pub(crate) type Xmm = [u8; 16];

/// Where the header begins: XSTATE_BV is its first quadword.
const XSTATE_BV: usize = 512;

/// A part of the registers 0 to 15, as the XSAVE area holds it.
struct Component {
    /// Its bit in XSTATE_BV and XCR0.
    bit: u64,
    /// Offset of register 0.
    start: usize,
    /// Bytes of one register.
    size: usize,
}

/// Bits 127:0.
const SSE: Component = Component {
    bit: 1 << 1,
    start: 160,
    size: 16,
};
/// YMM_Hi128: bits 255:128.
const AVX: Component = Component {
    bit: 1 << 2,
    start: 576,
    size: 16,
};
/// ZMM_Hi256: bits 511:256.
const ZMM_HI256: Component = Component {
    bit: 1 << 6,
    start: 1152,
    size: 32,
};

/// XCR0 must have these for VEX instructions (SDM 1 14.3).
pub(crate) const XCR0_AVX: u64 = SSE.bit | AVX.bit;

impl Component {
    /// The area has it.
    fn fits(&self, area: &[u8]) -> bool {
        self.start.saturating_add(self.size.saturating_mul(16)) <= area.len()
    }

    /// It is not in its initial configuration.
    fn in_use(&self, area: &[u8]) -> bool {
        area.get(XSTATE_BV)
            .is_some_and(|bv| u64::from(*bv) & self.bit != 0)
    }

    /// Its part of a register; nothing if it is in its initial configuration.
    fn register<'a>(&self, area: &'a [u8], number: u8) -> Option<&'a [u8]> {
        if !self.in_use(area) {
            return None;
        }
        let at = self.at(number);
        area.get(at..at.saturating_add(self.size))
    }

    fn at(&self, number: u8) -> usize {
        self.size
            .saturating_mul(usize::from(number & 15))
            .saturating_add(self.start)
    }

    /// Replaces its part of a register; `None`: by zeros.
    fn set(&self, area: &mut [u8], number: u8, value: Option<&Xmm>) {
        if !self.in_use(area) {
            // Zero is what it already is.
            if value.is_none_or(|bytes| *bytes == [0; 16]) {
                return;
            }
            let end = self.start.saturating_add(self.size.saturating_mul(16));
            if let Some(all) = area.get_mut(self.start..end) {
                all.fill(0);
            }
            if let Some(bv) = area.get_mut(XSTATE_BV) {
                *bv |= self.bit as u8;
            }
        }
        let at = self.at(number);
        let Some(register) = area.get_mut(at..at.saturating_add(self.size)) else {
            return;
        };
        register.fill(0);
        for (to, from) in register.iter_mut().zip(value.into_iter().flatten()) {
            *to = *from;
        }
    }
}

/// The area holds the registers that legacy SSE instructions use, and, with `vex`, those
/// of AVX.
pub(crate) fn holds(area: &[u8], vex: bool) -> bool {
    area.len() >= AVX.start && (!vex || AVX.fits(area))
}

/// Bits 255:0 of register 0 to 15.
pub(crate) fn read(area: &[u8], number: u8) -> Ymm {
    let mut ymm = [0; 32];
    let (low, high) = ymm.split_at_mut(16);
    for (to, component) in [(low, SSE), (high, AVX)] {
        for (to, from) in to
            .iter_mut()
            .zip(component.register(area, number).into_iter().flatten())
        {
            *to = *from;
        }
    }
    ymm
}

/// Writes bits 127:0 and leaves those above alone, as legacy SSE instructions do.
pub(crate) fn write_xmm(area: &mut [u8], number: u8, value: &Xmm) {
    SSE.set(area, number, Some(value));
}

/// Writes bits 255:0 and clears those above, as VEX-encoded instructions do.
pub(crate) fn write_ymm(area: &mut [u8], number: u8, value: &Ymm) {
    let (low, high) = value.split_at(16);
    SSE.set(area, number, low.try_into().ok());
    AVX.set(area, number, high.try_into().ok());
    ZMM_HI256.set(area, number, None);
}

#[cfg(test)]
#[path = "tests/xsave.rs"]
mod tests;
