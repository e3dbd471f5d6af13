// SPDX-License-Identifier: GPL-2.0

//! What finishing an intercepted instruction does to the guest's registers.

/// RFLAGS.TF.
const TF: u64 = 1 << 8;
/// RFLAGS.IF.
const IF: u64 = 1 << 9;
/// RFLAGS.RF.
const RF: u64 = 1 << 16;
/// Blocking by STI and by MOV SS (SDM 3C table 25-3): one instruction long.
pub const SHADOW: u32 = 3;
/// The first of them.
const BLOCKED_BY_STI: u32 = 1;
/// "Single step" of the pending debug exceptions (SDM 3C table 25-4).
pub const PENDING_DEBUG_BS: u64 = 1 << 14;

/// What becomes pending of debug exceptions: a single step, and the data breakpoints in bits
/// 3:0 of `breakpoints` (SDM 3C table 25-4: bit 12 says that one of them was enabled).
#[inline]
pub const fn pending_debug(single_step: bool, breakpoints: u8) -> u64 {
    const ENABLED_BREAKPOINT: u64 = 1 << 12;
    let step = if single_step { PENDING_DEBUG_BS } else { 0 };
    match breakpoints & 15 {
        0 => step,
        met => step | ENABLED_BREAKPOINT | met as u64,
    }
}

/// What VM entry accepts of the interruptibility state: no blocking by STI without RFLAGS.IF
/// (SDM 3C 27.3.1.5), which user space may have cleared.
#[inline]
pub const fn interruptibility_at_entry(interruptibility: u32, rflags: u64) -> u32 {
    match rflags & IF {
        0 => interruptibility & !BLOCKED_BY_STI,
        _ => interruptibility,
    }
}

/// What VM entry accepts of the debug exceptions that are pending: behind STI and MOV SS, it
/// wants a single step to be pending if, and only if, TF is set and `btf` (IA32_DEBUGCTL.BTF)
/// is not (SDM 3C 27.3.1.5). Registers from user space may say otherwise.
#[inline]
pub const fn pending_debug_at_entry(
    pending: u64,
    rflags: u64,
    interruptibility: u32,
    btf: bool,
) -> u64 {
    if interruptibility & SHADOW == 0 {
        return pending;
    }
    match rflags & TF != 0 && !btf {
        true => pending | PENDING_DEBUG_BS,
        false => pending & !PENDING_DEBUG_BS,
    }
}

/// The guest after an instruction has been finished for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finished {
    /// RIP.
    pub rip: u64,
    /// RFLAGS.
    pub rflags: u64,
    /// Interruptibility state.
    pub interruptibility: u32,
    /// A single-step trap is due: set [`PENDING_DEBUG_BS`].
    pub single_step: bool,
}

/// RIP behind an instruction of `len` bytes; `long` if it is 64-bit code.
/// Elsewhere RIP has 32 bits, in 16-bit code too: behind FFFFH comes 10000H, and the limit
/// of CS decides (SDM 3A 6.15, #GP).
#[inline]
pub const fn next_rip(rip: u64, len: u64, long: bool) -> u64 {
    let next = rip.wrapping_add(len);
    if long {
        next
    } else {
        next & 0xffff_ffff
    }
}

/// Finishes an instruction of `len` bytes that trapped as a fault.
#[inline]
pub const fn finish(
    rip: u64,
    rflags: u64,
    interruptibility: u32,
    len: u64,
    long: bool,
) -> Finished {
    Finished {
        rip: next_rip(rip, len, long),
        rflags: rflags & !RF,
        interruptibility: interruptibility & !SHADOW,
        single_step: rflags & TF != 0,
    }
}

/// RAX after IN of `size` bytes: AL and AX keep what is above them, EAX clears it.
#[inline]
pub const fn merge_in(rax: u64, data: u32, size: u8) -> u64 {
    let data = data as u64;
    match size {
        1 => rax & !0xff | data & 0xff,
        2 => rax & !0xffff | data & 0xffff,
        _ => data,
    }
}

/// Whether XSETBV accepts `value` for XCR0 where `supported` can be set
/// (SDM 1 13.3, SDM 2 "XSETBV").
pub const fn xcr0_valid(value: u64, supported: u64) -> bool {
    const X87: u64 = 1 << 0;
    const SSE: u64 = 1 << 1;
    const AVX: u64 = 1 << 2;
    const AVX512: u64 = 7 << 5;
    const MPX: u64 = 3 << 3;
    if value & !supported != 0 || value & X87 == 0 {
        return false;
    }
    let avx512 = value & AVX512;
    if value & AVX != 0 && value & SSE == 0 {
        return false;
    }
    if avx512 != 0 && (avx512 != AVX512 || value & AVX == 0) {
        return false;
    }
    value & MPX == 0 || value & MPX == MPX
}

/// DR7: the breakpoints of one task (L0 to L3, LE), which a task switch ends
/// (SDM 3B 18.2.4).
pub const DR7_LOCAL: u64 = 0x155;
/// DR6: #DB comes from a task switch, T being set in the new TSS (SDM 3B 18.3.1.5).
pub const DR6_BT: u64 = 1 << 15;

/// DR6 and DR7 when #DB with these `conditions` (exit qualification, SDM 3C
/// table 28-1) is delivered. BLD and RTM are 0 in DR6 when they apply, and the
/// processor clears DR7.GD so that the handler can use the registers.
#[inline]
pub const fn debug_registers(dr6: u64, dr7: u64, conditions: u64) -> (u64, u64) {
    const BREAKPOINTS: u64 = 0xf;
    const ACTIVE_LOW: u64 = 0xffff_0ff0;
    const ENABLED_BREAKPOINT: u64 = 1 << 12;
    const GD: u64 = 1 << 13;
    let mut new = dr6 & !BREAKPOINTS | ACTIVE_LOW | conditions;
    new ^= conditions & ACTIVE_LOW;
    (new & !ENABLED_BREAKPOINT & 0xffff_ffff, dr7 & !GD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rip_wraps_where_the_code_does() {
        assert_eq!(next_rip(0xffff, 2, false), 0x1_0001);
        assert_eq!(next_rip(0xffff_ffff, 2, false), 1);
        assert_eq!(next_rip(0xffff_ffff, 2, true), 0x1_0000_0001);
        assert_eq!(next_rip(u64::MAX, 1, true), 0);
    }

    #[test]
    fn finishing_ends_the_shadow_and_traps_single_steps() {
        let done = finish(0x10, 0x1_0102, 0b1011, 2, true);
        let want = Finished {
            rip: 0x12,
            rflags: 0x102,
            interruptibility: 0b1000,
            single_step: true,
        };
        assert_eq!(done, want);
        assert!(!finish(0, 2, 0, 1, true).single_step);
    }

    #[test]
    fn debug_exceptions_become_pending() {
        assert_eq!(pending_debug(false, 0), 0);
        assert_eq!(pending_debug(true, 0), 1 << 14);
        assert_eq!(pending_debug(false, 0xf5), 1 << 12 | 5);
        assert_eq!(pending_debug(true, 2), 1 << 14 | 1 << 12 | 2);
    }

    #[test]
    fn shadows_decide_about_single_steps() {
        const BS: u64 = PENDING_DEBUG_BS;
        for other in [0, 1 << 12 | 3] {
            for pending in [other, other | BS] {
                let at_entry =
                    |rflags, shadow, btf| pending_debug_at_entry(pending, rflags, shadow, btf);
                // Without a shadow, and with blocking by NMI, nothing is asked for.
                assert_eq!(at_entry(TF, 8, false), pending);
                assert_eq!(at_entry(2, 0, false), pending);
                for shadow in [1, 2, 9] {
                    assert_eq!(at_entry(2 | TF, shadow, false), other | BS);
                    assert_eq!(at_entry(2 | TF, shadow, true), other);
                    assert_eq!(at_entry(2, shadow, false), other);
                }
            }
        }
    }

    #[test]
    fn without_interrupts_sti_blocks_none() {
        assert_eq!(interruptibility_at_entry(0b1011, 2), 0b1010);
        assert_eq!(interruptibility_at_entry(0b1011, 2 | IF), 0b1011);
    }

    #[test]
    fn in_merges_by_size() {
        let rax = 0x1122_3344_5566_7788;
        assert_eq!(merge_in(rax, 0xaabb_ccdd, 1), 0x1122_3344_5566_77dd);
        assert_eq!(merge_in(rax, 0xaabb_ccdd, 2), 0x1122_3344_5566_ccdd);
        assert_eq!(merge_in(rax, 0xaabb_ccdd, 4), 0xaabb_ccdd);
    }

    /// All values of the low byte against the rules, one by one.
    #[test]
    fn xcr0_table() {
        for supported in [0x7, 0xe7, 0xff] {
            for value in 0..0x200u64 {
                let bit = |n: u32| value >> n & 1 == 1;
                let mut fine = bit(0) && value & !supported == 0;
                fine &= !bit(2) || bit(1);
                fine &= bit(3) == bit(4);
                fine &= bit(5) == bit(6) && bit(6) == bit(7);
                fine &= !bit(5) || bit(2);
                assert_eq!(xcr0_valid(value, supported), fine, "{value:#x}");
            }
        }
    }

    #[test]
    fn debug_exception_fills_dr6() {
        // Breakpoint 1, and the old breakpoint 0 goes.
        assert_eq!(
            debug_registers(0xffff_0ff1, 0x2400, 2),
            (0xffff_0ff2, 0x400)
        );
        // Single step stays together with what was there.
        assert_eq!(debug_registers(0xffff_2ff0, 0x400, 1 << 14).0, 0xffff_6ff0);
        // RTM is active low.
        assert_eq!(debug_registers(0xffff_0ff0, 0x400, 1 << 16).0, 0xfffe_0ff0);
        assert_eq!(debug_registers(0xffff_0ff0, 0x400, 1 << 12).0, 0xffff_0ff0);
    }
}
