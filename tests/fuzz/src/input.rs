// SPDX-License-Identifier: GPL-2.0

//! The fuzzer's bytes, taken from the front. Where they end, zeros follow.

/// Bytes not used so far.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a>(&'a [u8]);

macro_rules! numbers {
    ($($name:ident)+) => { $(
        /// The next number, little-endian.
        pub fn $name(&mut self) -> $name {
            let mut bytes = [0; size_of::<$name>()];
            for byte in &mut bytes {
                *byte = self.byte();
            }
            $name::from_le_bytes(bytes)
        }
    )+ };
}

impl<'a> Input<'a> {
    /// All of the fuzzer's bytes.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn byte(&mut self) -> u8 {
        match self.0 {
            [first, rest @ ..] => {
                self.0 = rest;
                *first
            }
            [] => 0,
        }
    }

    numbers! { u8 u16 u32 u64 }

    /// One of `N` things.
    pub fn choose<T: Copy, const N: usize>(&mut self, things: [T; N]) -> T {
        things[usize::from(self.u8()) % N]
    }

    /// Up to `len` bytes.
    pub fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Everything that is left.
    pub fn rest(self) -> &'a [u8] {
        self.0
    }
}
