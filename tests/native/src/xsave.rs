// SPDX-License-Identifier: GPL-2.0

//! Vector registers in XSAVE areas in the standard format (SDM 1 13.4).

/// A component: its bit in XSTATE_BV, where it begins, registers, bytes of each.
struct Component {
    name: &'static str,
    bit: u64,
    start: usize,
    count: usize,
    size: usize,
}

const COMPONENTS: [Component; 5] = [
    Component {
        name: "XMM",
        bit: 1 << 1,
        start: 160,
        count: 16,
        size: 16,
    },
    Component {
        name: "YMM_Hi128",
        bit: 1 << 2,
        start: 576,
        count: 16,
        size: 16,
    },
    Component {
        name: "k",
        bit: 1 << 5,
        start: 1088,
        count: 8,
        size: 8,
    },
    Component {
        name: "ZMM_Hi256",
        bit: 1 << 6,
        start: 1152,
        count: 16,
        size: 32,
    },
    Component {
        name: "Hi16_ZMM",
        bit: 1 << 7,
        start: 1664,
        count: 16,
        size: 64,
    },
];
const XSTATE_BV: usize = 512;

/// The names of registers whose values differ in two areas, of the components that are
/// `available`.
pub fn compare(available: u64, native: &[u8], emulated: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    for component in COMPONENTS.iter().filter(|c| c.bit & available != 0) {
        for number in 0..component.count {
            if component.value(native, number) != component.value(emulated, number) {
                found.push(format!("{}{number}", component.name));
            }
        }
    }
    found
}

impl Component {
    /// A register; zeroes where the component is in its initial state.
    fn value<'a>(&self, area: &'a [u8], number: usize) -> &'a [u8] {
        const ZEROES: &[u8] = &[0; 64];
        let mut present = [0; 8];
        present.copy_from_slice(&area[XSTATE_BV..][..8]);
        match u64::from_le_bytes(present) & self.bit {
            0 => &ZEROES[..self.size],
            _ => &area[self.start + number * self.size..][..self.size],
        }
    }
}
