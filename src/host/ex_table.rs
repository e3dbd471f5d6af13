// SPDX-License-Identifier: GPL-2.0

//! The kernel's exception table, for instructions that may fault.

/// Text for `asm!`: a fault of the instruction at label `$at` goes on at `$to`
/// (type 1, EX_TYPE_DEFAULT of asm/extable_fixup_types.h).
macro_rules! on_fault {
    ($at:literal, $to:literal) => {
        concat!(
            ".pushsection \"__ex_table\",\"a\"\n",
            ".balign 4\n",
            ".long ",
            $at,
            " - .\n",
            ".long ",
            $to,
            " - .\n",
            ".long 1\n",
            ".popsection",
        )
    };
}
pub(crate) use on_fault;
