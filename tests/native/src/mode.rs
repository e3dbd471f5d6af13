// SPDX-License-Identifier: GPL-2.0

//! The modes that code is executed in.

use std::fmt;
use std::str::FromStr;

use emulate::insn::CodeSize;

/// 16-, 32- or 64-bit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode(pub CodeSize);

impl Mode {
    /// All of them, the largest first.
    pub const ALL: [Self; 3] = [
        Self(CodeSize::Bits64),
        Self(CodeSize::Bits32),
        Self(CodeSize::Bits16),
    ];

    /// 16, 32 or 64.
    pub const fn bits(self) -> u8 {
        match self.0 {
            CodeSize::Bits16 => 16,
            CodeSize::Bits32 => 32,
            CodeSize::Bits64 => 64,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.bits().fmt(f)
    }
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|mode| mode.to_string() == text)
            .ok_or_else(|| format!("{text}: no such mode; there are 16, 32 and 64"))
    }
}
