// SPDX-License-Identifier: GPL-2.0

//! Guest memory for the tests of this crate: pages that exist once written.

use std::collections::BTreeMap;

use super::*;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ram(BTreeMap<u64, [u8; 4096]>);

impl Ram {
    pub(crate) fn write(&mut self, gpa: u64, bytes: &[u8]) {
        for (n, byte) in bytes.iter().enumerate() {
            let at = gpa + n as u64;
            let page = self.0.entry(at >> 12).or_insert([0; 4096]);
            page[at as usize & 0xfff] = *byte;
        }
    }

    pub(crate) fn write_u64(&mut self, gpa: u64, value: u64) {
        self.write(gpa, &value.to_le_bytes());
    }

    pub(crate) fn write_u32(&mut self, gpa: u64, value: u32) {
        self.write(gpa, &value.to_le_bytes());
    }
}

impl GuestPhys for Ram {
    fn read(&mut self, gpa: Gpa, out: &mut [u8]) -> bool {
        let offset = usize::from(gpa.page_offset());
        assert!(offset + out.len() <= 4096, "read across a page boundary");
        let Some(page) = self.0.get(&(gpa.get() >> 12)) else {
            // A failed read leaves whatever it likes.
            out.fill(0xee);
            return false;
        };
        out.copy_from_slice(&page[offset..offset + out.len()]);
        true
    }
}
