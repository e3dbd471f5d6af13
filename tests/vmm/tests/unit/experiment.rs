// SPDX-License-Identifier: GPL-2.0

use super::*;

const PATTERN: StorePattern = StorePattern {
    base: 0x10_0000,
    pages: 2,
    scratch: 0x2_0000,
};
const MAPS: [u32; 2] = [u32::MAX, !(1 << 5)];
const STORE: Store = Store {
    page: 1,
    subpage: 5,
    width: Width::Dword,
};

fn experiment() -> Experiment<'static> {
    Experiment {
        pattern: PATTERN,
        granted: &MAPS,
        enforced: &MAPS,
    }
}

fn true_exit() -> SppExit {
    SppExit {
        flags: KVM_SPP_EXIT_GVA_VALID | KVM_SPP_EXIT_SIZE_VALID | KVM_SPP_EXIT_INSN_LEN_VALID,
        gpa: PATTERN.address(STORE),
        gva: PATTERN.address(STORE),
        rip: 0x8010,
        size: 4,
        denied: 1 << 5,
        map: MAPS[1],
        insn_len: 2,
        ..Default::default()
    }
}

fn faults(exit: &SppExit) -> usize {
    experiment().faults_of(STORE, exit, 0x8010, 2).len()
}

#[test]
fn bits_of_a_map_belong_to_its_page() {
    let denied: Vec<Store> = PATTERN
        .stores()
        .filter(|&store| experiment().denies(store))
        .collect();
    assert_eq!(denied.len(), Width::ALL.len());
    assert!(denied
        .iter()
        .all(|store| store.page == 1 && store.subpage == 5));
    assert!(denied.iter().all(|&store| !experiment().grants(store)));
}

#[test]
fn a_true_exit_has_no_faults() {
    assert_eq!(
        experiment().faults_of(STORE, &true_exit(), 0x8010, 2),
        [""; 0]
    );
}

#[test]
fn every_field_that_lies_is_a_fault() {
    let lies: [fn(&mut SppExit); 8] = [
        |exit| exit.gpa += 1,
        |exit| exit.gva += 1,
        |exit| exit.rip += 1,
        |exit| exit.size = 8,
        |exit| exit.denied = 1 << 6,
        |exit| exit.map = 0,
        |exit| exit.insn_len = 3,
        |exit| exit.flags |= KVM_SPP_EXIT_EVENT_DELIVERY,
    ];
    for (n, lie) in lies.into_iter().enumerate() {
        let mut exit = true_exit();
        lie(&mut exit);
        assert_eq!(faults(&exit), 1, "lie {n}");
    }
}

#[test]
fn fields_that_are_not_valid_may_hold_anything() {
    let exit = SppExit {
        flags: 0,
        gva: 1,
        size: 1,
        insn_len: 1,
        ..true_exit()
    };
    assert_eq!(faults(&exit), 0);
}
