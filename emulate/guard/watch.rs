// SPDX-License-Identifier: GPL-2.0

//! Data breakpoints (SDM 3B 18.2): what an emulated access meets of them.

use ept::Gva;

/// The debug registers, as far as data breakpoints go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Breakpoints {
    /// DR0 to DR3.
    pub addresses: [u64; 4],
    /// DR7; 0 where the guest uses none of them.
    pub dr7: u64,
}

/// Bits of DR7 that enable a breakpoint.
const ENABLED: u64 = 0xff;

impl Breakpoints {
    /// Whether any breakpoint is enabled.
    pub const fn any(&self) -> bool {
        self.dr7 & ENABLED != 0
    }

    /// The breakpoints that an access of `len` bytes meets: bits 3:0, as in DR6.
    #[inline]
    pub(super) fn met(&self, gva: Gva, len: usize, write: bool) -> u8 {
        match self.any() {
            true => self.met_of_all(gva, len, write),
            false => 0,
        }
    }

    #[cold]
    fn met_of_all(&self, gva: Gva, len: usize, write: bool) -> u8 {
        let mut met = 0;
        for (n, address) in self.addresses.iter().enumerate() {
            let control = self.dr7.wrapping_shr((16 + 4 * n) as u32) & 15;
            // Bits 1:0: 1 writes, 3 reads and writes. Bits 3:2: its length.
            let (kind, bytes) = (control & 3, [1, 2, 8, 4]);
            let bytes: u64 = bytes.into_iter().nth((control >> 2) as usize).unwrap_or(1);
            let enabled = self.dr7.wrapping_shr(2 * n as u32) & 3 != 0;
            let first = address & !bytes.wrapping_sub(1);
            let ahead = gva.get().wrapping_sub(first) < bytes;
            let inside = first.wrapping_sub(gva.get()) < len as u64;
            if enabled && (kind == 3 || kind == 1 && write) && (ahead || inside) {
                met |= 1 << n;
            }
        }
        met
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every kind and length of breakpoint against every access around it.
    #[test]
    fn met_where_bytes_overlap() {
        const AT: u64 = 0x1000;
        for (code, bytes) in [(0, 1), (1, 2), (3, 4), (2, 8)] {
            for kind in 0..4 {
                for n in 0..4 {
                    let mut watch = Breakpoints::default();
                    watch.addresses[n] = AT;
                    watch.dr7 = (code << 2 | kind) << (16 + 4 * n);
                    assert_eq!(watch.met(Gva::new(AT), 8, true), 0, "not enabled");
                    watch.dr7 |= 2 << (2 * n);
                    for (gva, len) in (AT - 17..AT + 17).flat_map(|at| [(at, 1), (at, 8), (at, 16)])
                    {
                        let overlap = gva < AT + bytes && AT < gva + len;
                        for write in [false, true] {
                            let kind = kind == 3 || kind == 1 && write;
                            let want = u8::from(overlap && kind) << n;
                            let met = watch.met(Gva::new(gva), len as usize, write);
                            assert_eq!(met, want, "{code} {kind} {gva:#x} {len} {write}");
                        }
                    }
                }
            }
        }
    }
}
