// SPDX-License-Identifier: GPL-2.0

//! The host changes memory under a running guest: no stale page is ever
//! written, and what cannot be faulted in ends KVM_RUN with `EFAULT`.

use crate::area::Area;
use crate::host;
use crate::ktap::{Env, Test, Verdict};
use crate::load;
use crate::runner::{Flow, Runner};
use crate::slot::{self, GPA};
use guest::PAGE_SIZE;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::Arc;
use vmm::{Exit, Vm};

pub(crate) const TESTS: &[Test] = &[
    Test::new(
        "mmu: mmap over running stores, they go to the new pages",
        replaced,
    ),
    Test::new(
        "mmu: MADV_DONTNEED under running stores, they begin at 0",
        dropped,
    ),
    Test::new(
        "mmu: munmap under running stores gives EFAULT until mapped",
        unmapped,
    ),
    Test::new(
        "mmu: read-only memory gives EFAULT on a store, not on a load",
        readonly,
    ),
    Test::new("mmu: fork, the child's copy does not change", forked),
    Test::new(
        "mmu: mmap over a page with a map keeps the map",
        replaced_with_map,
    ),
    Test::new(
        "mmu: shared memory taken away does not change any more",
        taken_away,
    ),
    Test::new(
        "mmu: the same while another thread changes maps",
        taken_away_amid_changes,
    ),
];

const BYTES: usize = 16 * PAGE_SIZE as usize;
/// The word the guest counts in.
const AT: usize = 5 * PAGE_SIZE as usize + 16;
/// Far above what a guest counts up to.
const MARK: u64 = 1 << 40;

/// A guest that counts at `GPA + AT`, how often KVM_RUN failed with `EFAULT`, and
/// how often a store was denied.
struct Counting {
    runner: Runner,
    faults: Arc<AtomicU64>,
    denied: Arc<AtomicU64>,
}

impl Counting {
    fn start(vm: &Vm) -> Self {
        let faults = Arc::new(AtomicU64::new(0));
        let denied = Arc::new(AtomicU64::new(0));
        let (fault, deny) = (faults.clone(), denied.clone());
        let vcpu = load::boot(vm, 0, &load::counters(0, &[GPA + AT as u64]));
        let runner = Runner::start(vm, vcpu, Some(0), move |_, exit| {
            match exit {
                Ok(Exit::Spp(_)) => drop(deny.fetch_add(1, SeqCst)),
                Err(error) if error.errno() == Some(libc::EFAULT) => {
                    fault.fetch_add(1, SeqCst);
                }
                other => panic!("{other:?}"),
            }
            host::give_way();
            Flow::Go
        });
        Self {
            runner,
            faults,
            denied,
        }
    }

    fn counts_in(&self, area: &Area) {
        let before = area.load(AT);
        self.runner
            .wait("the guest counts", || area.load(AT) > before + 5);
    }

    fn faults(&self) {
        let goal = self.faults.load(SeqCst) + 3;
        self.runner
            .wait("KVM_RUN fails", || self.faults.load(SeqCst) >= goal);
    }

    fn end(self, faults: bool) {
        assert_eq!(self.faults.load(SeqCst) > 0, faults, "EFAULT");
        drop(self.runner.stop());
    }
}

fn replaced(env: &Env) -> Verdict {
    let vm = env.vm();
    let area = slot::add(&vm, BYTES);
    let guest = Counting::start(&vm);
    for _ in 0..200 {
        guest.counts_in(&area);
        area.replace();
        area.store(AT, MARK);
        guest.counts_in(&area);
        assert!(area.load(AT) > MARK, "the guest counts elsewhere");
    }
    guest.end(false);
    Ok(())
}

fn dropped(env: &Env) -> Verdict {
    let vm = env.vm();
    let area = slot::add(&vm, BYTES);
    let guest = Counting::start(&vm);
    for _ in 0..200 {
        area.store(AT, MARK);
        guest.counts_in(&area);
        area.advise(0, BYTES, libc::MADV_DONTNEED).unwrap();
        guest.counts_in(&area);
        assert!(area.load(AT) < MARK, "the page is still there");
    }
    guest.end(false);
    Ok(())
}

fn unmapped(env: &Env) -> Verdict {
    let vm = env.vm();
    let area = slot::add(&vm, BYTES);
    let guest = Counting::start(&vm);
    for _ in 0..100 {
        guest.counts_in(&area);
        area.unmap();
        guest.faults();
        area.replace();
    }
    guest.counts_in(&area);
    guest.end(true);
    Ok(())
}

fn readonly(env: &Env) -> Verdict {
    let vm = env.vm();
    let area = slot::add(&vm, BYTES);
    let guest = Counting::start(&vm);
    for _ in 0..100 {
        guest.counts_in(&area);
        area.protect(false);
        let stopped = area.load(AT);
        guest.faults();
        assert_eq!(area.load(AT), stopped, "a store to read-only memory");
        area.protect(true);
    }
    guest.counts_in(&area);
    guest.end(true);
    loads_from_readonly(env);
    Ok(())
}

fn loads_from_readonly(env: &Env) {
    use guest::asm::{qword_ptr, rax, rbx};
    let vm = env.vm();
    let area = slot::add(&vm, BYTES);
    area.store(AT, MARK);
    area.protect(false);
    let program = load::program(0, |a| {
        a.mov(rbx, GPA + AT as u64)?;
        a.mov(rax, qword_ptr(rbx))?;
        a.hlt()?;
        Ok(vec![])
    });
    let mut vcpu = load::boot(&vm, 0, &program);
    assert_eq!(vcpu.run().unwrap(), Exit::Hlt);
    assert_eq!(vcpu.regs().unwrap().rax, MARK);
}

/// After fork the pages are the child's too, so the guest must not write to
/// them any more: it gets copies.
fn forked(env: &Env) -> Verdict {
    let vm = env.vm();
    let area = slot::add(&vm, BYTES);
    let orders = Area::shared(PAGE_SIZE as usize);
    let guest = Counting::start(&vm);
    for round in 1..=5 {
        guest.counts_in(&area);
        // SAFETY: The child calls nothing but `watch_copy` and `_exit`, which
        // take no locks and allocate nothing.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let status = watch_copy(&area, &orders, round);
            // SAFETY: Ends the child without running anything of the parent's.
            unsafe { libc::_exit(status) };
        }
        assert!(child > 0);
        host::wait_until("the child looks", || orders.load(0) == round);
        for _ in 0..10 {
            guest.counts_in(&area);
        }
        orders.store(8, round);
        assert_eq!(host::wait_for(child), 0, "the child's copy changed");
    }
    guest.end(false);
    Ok(())
}

/// The child: its word must stay as it is until the parent has seen the guest
/// go on.
fn watch_copy(area: &Area, orders: &Area, round: u64) -> i32 {
    let first = area.load(AT);
    orders.store(0, round);
    while orders.load(8) != round {
        if area.load(AT) != first {
            return 1;
        }
        host::give_way();
    }
    i32::from(area.load(AT) != first)
}

fn replaced_with_map(env: &Env) -> Verdict {
    let vm = env.spp_vm()?;
    let area = slot::add(&vm, BYTES);
    let guest = Counting::start(&vm);
    guest.counts_in(&area);
    vm.set_maps(GPA + (AT as u64 & !(PAGE_SIZE - 1)), &[!1])
        .unwrap();
    for _ in 0..100 {
        area.replace();
        area.store(AT, MARK);
        let goal = guest.denied.load(SeqCst) + 3;
        let denied = || guest.denied.load(SeqCst) >= goal;
        guest.runner.wait("the store is denied", denied);
        assert_eq!(area.load(AT), MARK, "a denied store happened");
        area.advise(0, BYTES, libc::MADV_DONTNEED).unwrap();
    }
    guest.end(false);
    Ok(())
}

/// Takes shared pages away from the guest, and looks at them through another
/// mapping: a stale translation would still write there.
fn take_away(area: &Area, guest: &Counting, rounds: u64) {
    for _ in 0..rounds {
        let alias = area.alias();
        guest.counts_in(&alias);
        area.replace_shared();
        let stopped = alias.load(AT);
        guest.counts_in(area);
        assert_eq!(alias.load(AT), stopped, "a store to memory taken away");
    }
}

fn taken_away(env: &Env) -> Verdict {
    let vm = env.vm();
    let area = Area::shared(BYTES);
    slot::place(&vm, GPA, &area);
    let guest = Counting::start(&vm);
    take_away(&area, &guest, 100);
    guest.end(false);
    Ok(())
}

/// Another thread takes the same translations away for other reasons.
fn taken_away_amid_changes(env: &Env) -> Verdict {
    let vm = env.spp_vm()?;
    let area = Area::shared(BYTES);
    slot::place(&vm, GPA, &area);
    let page = GPA + (AT as u64 & !(PAGE_SIZE - 1));
    let guest = Counting::start(&vm);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let changer = scope.spawn(|| {
            while !over.load(SeqCst) {
                vm.set_maps(page, &[!1]).unwrap();
                vm.set_maps(page, &[!(1 << 31)]).unwrap();
                vm.set_maps(page, &[u32::MAX]).unwrap();
                host::give_way();
            }
        });
        let over = SetOnDrop(&over);
        take_away(&area, &guest, 50);
        drop(over);
        changer.join().unwrap();
    });
    drop(guest.runner.stop());
    Ok(())
}

/// Tells a thread to end, even after a failure.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}
