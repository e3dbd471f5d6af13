// SPDX-License-Identifier: GPL-2.0

use super::*;
use iced_x86::{Decoder, DecoderOptions, Mnemonic};
use std::collections::BTreeSet;

const PATTERN: StorePattern = StorePattern {
    base: 0x10_0000,
    pages: 3,
    scratch: 0x2_0000,
};

#[test]
fn stores_do_not_overlap_and_stay_in_their_sub_page() {
    let mut seen = BTreeSet::new();
    for store in PATTERN.stores() {
        let first = PATTERN.address(store);
        let last = first + store.width.bytes() - 1;
        assert_eq!(first / SUBPAGE_SIZE, last / SUBPAGE_SIZE);
        for byte in first..=last {
            assert!(seen.insert(byte), "{store:?}");
        }
    }
    assert_eq!(PATTERN.stores().count() as u64, 3 * 32 * 6);
}

#[test]
fn no_stored_byte_looks_like_the_background() {
    for store in PATTERN.stores() {
        let value = PATTERN.value(store);
        assert_eq!(value.len() as u64, store.width.bytes());
        assert!(value
            .iter()
            .all(|&byte| byte != BACKGROUND && byte & 1 == 1));
    }
}

#[test]
fn addresses_name_their_stores() {
    for store in PATTERN.stores() {
        assert_eq!(PATTERN.store_at(PATTERN.address(store)), Some(store));
    }
    assert_eq!(PATTERN.store_at(PATTERN.base - 128), None);
    assert_eq!(PATTERN.store_at(PATTERN.base + 3 * PAGE_SIZE), None);
    assert_eq!(PATTERN.store_at(PATTERN.base + 1), None);
}

#[test]
fn the_image_has_allowed_stores_and_nothing_else() {
    assert!(PATTERN
        .image(|_| false)
        .iter()
        .all(|&byte| byte == BACKGROUND));
    let only = Store {
        page: 1,
        subpage: 5,
        width: Width::Qword,
    };
    let image = PATTERN.image(|store| store == only);
    let start = (4096 + 5 * 128 + 48) as usize;
    assert_eq!(image[start..start + 8], PATTERN.value(only));
    assert_eq!(image.iter().filter(|&&byte| byte != BACKGROUND).count(), 8);
}

#[test]
fn labels_are_the_storing_instructions() {
    let program = PATTERN.program(0x8000).unwrap();
    let expected = [
        Mnemonic::Mov,
        Mnemonic::Mov,
        Mnemonic::Mov,
        Mnemonic::Mov,
        Mnemonic::Movdqa,
        Mnemonic::Movsq,
    ];
    assert_eq!(program.labels.len(), expected.len());
    for (&rip, mnemonic) in program.labels.iter().zip(expected) {
        let code = &program.code[(rip - 0x8000) as usize..];
        let instruction = Decoder::with_ip(64, code, rip, DecoderOptions::NONE).decode();
        assert_eq!(instruction.mnemonic(), mnemonic);
        assert_eq!(program.len_at(rip), Some(instruction.len() as u64));
    }
}
