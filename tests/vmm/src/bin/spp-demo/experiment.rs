// SPDX-License-Identifier: GPL-2.0

//! One run of the guest under maps.
//!
//! ```text
//!   KVM_RUN ─► KVM_EXIT_SPP ─► note it, compare it with the guest's registers
//!      ▲                           │
//!      │        granted, but not   ├─► do the store in the guest's place
//!      │        enforceable finer  │
//!      └──────── RIP += length ◄───┘
//! ```

use guest::{Program, Store, StorePattern, Width, BACKGROUND, CODE};
use ioctl_api::subpage::{
    SppExit, KVM_SPP_EXIT_EVENT_DELIVERY, KVM_SPP_EXIT_GVA_VALID, KVM_SPP_EXIT_INSN_LEN_VALID,
    KVM_SPP_EXIT_SIZE_VALID,
};
use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use vmm::{Exit, Vcpu, Vm};

/// What a guest may do and what is enforced on it.
pub(crate) struct Experiment<'a> {
    pub(crate) pattern: StorePattern,
    /// What the guest may write, one map for each page.
    pub(crate) granted: &'a [u32],
    /// The maps given to the device; allow at most what is granted.
    pub(crate) enforced: &'a [u32],
}

/// What happened.
pub(crate) struct Outcome {
    /// How many times the guest left.
    pub(crate) exits: usize,
    /// How many times it left for each store.
    pub(crate) denials: BTreeMap<Store, usize>,
    /// What an exit told wrongly, or that memory had changed.
    pub(crate) problems: Vec<(Store, String)>,
    /// The pages after the run.
    pub(crate) memory: Vec<u8>,
}

impl Experiment<'_> {
    /// Whether the guest may make a store.
    pub(crate) fn grants(&self, store: Store) -> bool {
        allows(self.granted, store)
    }

    /// Whether the device must deny a store.
    pub(crate) fn denies(&self, store: Store) -> bool {
        !allows(self.enforced, store)
    }

    /// Runs the guest from begin to end in a VM of its own.
    pub(crate) fn run(&self, device: &Path) -> Result<Outcome, Box<dyn Error>> {
        let program = self.pattern.program(CODE)?;
        let image = self.pattern.image(|_| false);
        let vm = Vm::open(device, 2 << 20)?;
        vm.enable_spp()?;
        vm.write(self.pattern.base, &image)?;
        vm.set_maps(self.pattern.base, self.enforced)?;
        if vm.maps(self.pattern.base, self.enforced.len())? != self.enforced {
            return Err("the maps read back are not those that were set".into());
        }
        let mut vcpu = vm.boot(&program)?;
        let mut outcome = Outcome {
            exits: 0,
            denials: BTreeMap::new(),
            problems: Vec::new(),
            memory: Vec::new(),
        };
        self.run_to_halt(&vm, &mut vcpu, &program, &mut outcome)?;
        outcome.memory = vm.read(self.pattern.base, image.len())?;
        Ok(outcome)
    }

    fn run_to_halt(
        &self,
        vm: &Vm,
        vcpu: &mut Vcpu,
        program: &Program,
        outcome: &mut Outcome,
    ) -> Result<(), Box<dyn Error>> {
        // An exit that is never skipped would otherwise be taken for ever.
        let limit = self.pattern.stores().count();
        loop {
            match vcpu.run()? {
                Exit::Hlt => return Ok(()),
                Exit::Interrupted => {}
                Exit::Spp(exit) if outcome.exits < limit => {
                    outcome.exits += 1;
                    self.skip(vm, vcpu, program, &exit, outcome)?;
                }
                Exit::Spp(_) => return Err("more exits than stores".into()),
                other => return Err(format!("the guest left for {other:?}").into()),
            }
        }
    }

    /// Notes a denied store and moves the guest past it.
    fn skip(
        &self,
        vm: &Vm,
        vcpu: &Vcpu,
        program: &Program,
        exit: &SppExit,
        outcome: &mut Outcome,
    ) -> Result<(), Box<dyn Error>> {
        let regs = vcpu.regs()?;
        let site = program.labels.iter().position(|&rip| rip == regs.rip);
        let width = site.and_then(|n| Width::ALL.get(n));
        // The guest's own register says which store it is, not the exit, which
        // is what is being tested.
        let Some(store) = self
            .pattern
            .store_at(regs.rdi)
            .filter(|s| Some(&s.width) == width)
        else {
            return Err(format!("exit at rip {:#x}, which stores nothing", regs.rip).into());
        };
        let length = program.len_at(regs.rip).unwrap_or_default();
        *outcome.denials.entry(store).or_default() += 1;
        let mut problems = self.faults_of(store, exit, regs.rip, length);
        let bytes = vm.read(self.pattern.address(store), store.width.bytes() as usize)?;
        if bytes.iter().any(|&byte| byte != BACKGROUND) {
            problems.push("the denied store changed memory".into());
        }
        outcome
            .problems
            .extend(problems.into_iter().map(|text| (store, text)));
        if self.grants(store) {
            vm.write(self.pattern.address(store), &self.pattern.value(store))?;
        }
        Ok(vcpu.skip(length)?)
    }

    /// What an exit tells that is not so.
    fn faults_of(&self, store: Store, exit: &SppExit, rip: u64, length: u64) -> Vec<String> {
        let address = self.pattern.address(store);
        let map = map_of(self.enforced, store);
        let size = store.width.bytes();
        let valid = |flag| exit.flags & flag != 0;
        let mut faults = Vec::new();
        let mut expect = |name: &str, told: u64, fact: u64| {
            if told != fact {
                faults.push(format!("the exit tells {name} {told:#x}, not {fact:#x}"));
            }
        };
        expect("gpa", exit.gpa, address);
        expect("rip", exit.rip, rip);
        expect("map", exit.map.into(), map.into());
        expect("denied sub-pages", exit.denied.into(), 1 << store.subpage);
        expect(
            "event delivery",
            exit.flags & KVM_SPP_EXIT_EVENT_DELIVERY,
            0,
        );
        if valid(KVM_SPP_EXIT_GVA_VALID) {
            expect("gva", exit.gva, address);
        }
        // A string instruction may be taken as a whole or element by element.
        if valid(KVM_SPP_EXIT_SIZE_VALID) && store.width != Width::Movs {
            expect("size", exit.size.into(), size);
        }
        if valid(KVM_SPP_EXIT_INSN_LEN_VALID) {
            expect("instruction length", exit.insn_len.into(), length);
        }
        faults
    }
}

fn map_of(maps: &[u32], store: Store) -> u32 {
    maps.get(store.page as usize).copied().unwrap_or_default()
}

fn allows(maps: &[u32], store: Store) -> bool {
    map_of(maps, store) & (1 << store.subpage) != 0
}

#[cfg(test)]
#[path = "../../../tests/unit/experiment.rs"]
mod tests;
