// SPDX-License-Identifier: GPL-2.0

use super::*;

fn entered(mode: Mode) -> kvm_sregs {
    let mut sregs = kvm_sregs::default();
    sregs.cs.base = 0xffff_0000;
    sregs.cs.selector = 0xf000;
    mode.enter(&mut sregs, 0x10000, 0x1000);
    sregs
}

#[test]
fn control_registers_agree_with_each_mode() {
    let flags = |mode| {
        let s = entered(mode);
        let has = |word: u64, bit: u64| word & bit != 0;
        (
            has(s.cr0, CR0_PE),
            has(s.cr0, CR0_PG),
            has(s.cr4, CR4_PAE),
            has(s.efer, EFER_LMA),
        )
    };
    assert_eq!(flags(Mode::Real), (false, false, false, false));
    assert_eq!(flags(Mode::Protected), (true, false, false, false));
    assert_eq!(flags(Mode::Paged32), (true, true, false, false));
    assert_eq!(flags(Mode::Pae), (true, true, true, false));
    assert_eq!(flags(Mode::Long), (true, true, true, true));
}

#[test]
fn only_paging_modes_have_tables() {
    for mode in Mode::ALL {
        let paging = entered(mode).cr0 & CR0_PG != 0;
        assert_eq!(!mode.tables(0x10000).is_empty(), paging, "{mode:?}");
        assert_eq!(entered(mode).cr3 != 0, paging, "{mode:?}");
    }
}

#[test]
fn code_segments_select_the_code_size() {
    for mode in Mode::ALL {
        let cs = entered(mode).cs;
        assert_eq!(cs.base, 0, "{mode:?}");
        // SDM 3A 5.2.1: L and D both set is reserved.
        let bits = match (cs.l, cs.db) {
            (0, 0) => 16,
            (0, 1) => 32,
            (1, 0) => 64,
            both => panic!("{both:?}"),
        };
        assert_eq!(bits, mode.bitness(), "{mode:?}");
    }
}

#[test]
fn the_gdt_describes_the_segments() {
    for mode in [Mode::Protected, Mode::Pae, Mode::Long] {
        let gdt = mode.gdt();
        let sregs = entered(mode);
        assert_eq!(gdt.len() - 1, usize::from(sregs.gdt.limit));
        for segment in [sregs.cs, sregs.ds] {
            let at = usize::from(segment.selector);
            let descriptor = u64::from_le_bytes(gdt[at..at + 8].try_into().unwrap());
            assert_eq!(((descriptor >> 40) & 15) as u8, segment.type_);
            assert_eq!(((descriptor >> 53) & 1) as u8, segment.l);
            assert_eq!(((descriptor >> 54) & 1) as u8, segment.db);
        }
    }
}
