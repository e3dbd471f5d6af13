// SPDX-License-Identifier: GPL-2.0

//! The host gathers, splits, merges and swaps out pages that a guest uses.

use crate::area::{Area, LARGE};
use crate::host;
use crate::ktap::{Env, Skip, Test, Verdict};
use crate::load;
use crate::runner::{Flow, Runner};
use crate::slot::{self, GPA};
use guest::{Program, PAGE_SIZE};
use std::ffi::CString;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::Arc;
use vmm::{Exit, Vcpu, Vm};

pub(crate) const TESTS: &[Test] = &[
    Test::new(
        "reclaim: large pages split and collapsed under stores",
        large_pages,
    ),
    Test::new(
        "reclaim: the same with a map inside the large page",
        large_pages_with_map,
    ),
    Test::new("reclaim: merged by KSM, stores get copies", merged),
    Test::new("reclaim: swapped out under running stores", swapped),
];

const PAGE: usize = PAGE_SIZE as usize;
/// `MADV_PAGEOUT` and `MADV_COLLAPSE` of <linux/mman.h>.
const PAGEOUT: i32 = 21;
const COLLAPSE: i32 = 25;

/// Counts at `GPA` plus each of `offsets`; counts denied stores.
fn count(vm: &Vm, offsets: &[usize]) -> (Runner, Arc<AtomicU64>) {
    let denied = Arc::new(AtomicU64::new(0));
    let count = denied.clone();
    let targets: Vec<u64> = offsets.iter().map(|&at| GPA + at as u64).collect();
    let program = load::counters(0, &targets);
    let vcpu = load::boot(vm, 0, &program);
    let runner = Runner::start(vm, vcpu, Some(0), move |vcpu, exit| {
        let Exit::Spp(exit) = exit.unwrap() else {
            panic!("not a denied store");
        };
        count.fetch_add(1, SeqCst);
        vcpu.skip(program.len_at(exit.rip).unwrap()).unwrap();
        Flow::Go
    });
    (runner, denied)
}

fn counts(runner: &Runner, area: &Area, offsets: &[usize]) {
    for &at in offsets {
        let before = area.load(at);
        runner.wait("the guest counts", || area.load(at) > before + 3);
    }
}

/// Splits the area's large page by taking away its page 9, and makes it again.
fn split_and_collapse(area: &Area, mut check: impl FnMut()) {
    for _ in 0..10 {
        assert!(slot::large_kilobytes() > 0, "no large page");
        check();
        area.advise(9 * PAGE, PAGE, libc::MADV_DONTNEED).unwrap();
        check();
        assert_eq!(slot::large_kilobytes(), 0, "the page is not split");
        area.advise(0, LARGE, COLLAPSE).unwrap();
    }
    check();
}

fn large_pages(env: &Env) -> Verdict {
    let vm = env.vm();
    let area = slot::add_large(&vm)?;
    let offsets = [8, 100 * PAGE, 511 * PAGE];
    let (runner, _) = count(&vm, &offsets);
    split_and_collapse(&area, || counts(&runner, &area, &offsets));
    drop(runner.stop());
    Ok(())
}

fn large_pages_with_map(env: &Env) -> Verdict {
    let vm = env.spp_vm()?;
    let area = slot::add_large(&vm)?;
    let at = 300 * PAGE + 0x400;
    area.store(at, 77);
    vm.set_maps(GPA + 300 * PAGE_SIZE, &[!(1 << 8)]).unwrap();
    let offsets = [8, 300 * PAGE];
    let (runner, denied) = count(&vm, &[8, at, 300 * PAGE]);
    split_and_collapse(&area, || {
        counts(&runner, &area, &offsets);
        assert_eq!(area.load(at), 77, "a denied store happened");
    });
    assert!(denied.load(SeqCst) > 10);
    drop(runner.stop());
    Ok(())
}

const KSM: &str = "/sys/kernel/mm/ksm";

fn ksm(file: &str, value: &str) -> bool {
    host::set(&format!("{KSM}/{file}"), value)
}

/// Two equal pages become one; a store through the guest then makes a copy.
fn merged(env: &Env) -> Verdict {
    if !ksm("run", "1") {
        return Err(Skip("no KSM".into()));
    }
    ksm("pages_to_scan", "1000");
    ksm("sleep_millisecs", "1");
    let vm = env.vm();
    let area = slot::add(&vm, 16 * PAGE);
    let (runner, _) = count(&vm, &[12 * PAGE]);
    let mut vcpu = vm.vcpu(1).unwrap();
    area.advise(0, 8 * PAGE, libc::MADV_MERGEABLE).unwrap();
    for round in 0..5 {
        let value = 0x1234_0000 + round;
        (0..8).for_each(|page| area.store(page * PAGE + 8, value));
        read_through_guest(&vm, &mut vcpu, value);
        let shared = || fs::read_to_string(format!("{KSM}/pages_sharing")).unwrap();
        runner.wait("pages are merged", || shared().trim() == "7");
        store_through_guest(&vm, &mut vcpu, 3);
        for page in 0..8 {
            let want = if page == 3 { value + 1 } else { value };
            assert_eq!(area.load(page * PAGE + 8), want, "page {page}");
        }
    }
    counts(&runner, &area, &[12 * PAGE]);
    drop(runner.stop());
    ksm("run", "2");
    Ok(())
}

/// Runs one program after another on a vCPU, and returns RAX.
fn once(vm: &Vm, vcpu: &mut Vcpu, program: &Program) -> u64 {
    vm.load(program).unwrap();
    vcpu.enter(program.mode, program.address).unwrap();
    assert_eq!(vcpu.run().unwrap(), Exit::Hlt);
    vcpu.regs().unwrap().rax
}

fn read_through_guest(vm: &Vm, vcpu: &mut Vcpu, value: u64) {
    use guest::asm::{qword_ptr, rax, rbx};
    for page in 0..8 {
        let program = load::program(1, |a| {
            a.mov(rbx, GPA + page * PAGE_SIZE + 8)?;
            a.mov(rax, qword_ptr(rbx))?;
            a.hlt()?;
            Ok(vec![])
        });
        assert_eq!(once(vm, vcpu, &program), value);
    }
}

fn store_through_guest(vm: &Vm, vcpu: &mut Vcpu, page: u64) {
    use guest::asm::{qword_ptr, rbx};
    let program = load::program(1, |a| {
        a.mov(rbx, GPA + page * PAGE_SIZE + 8)?;
        a.inc(qword_ptr(rbx))?;
        a.hlt()?;
        Ok(vec![])
    });
    once(vm, vcpu, &program);
}

/// A RAM disk as swap space, until dropped.
struct Swap(CString);

impl Swap {
    /// Writes the header of <linux/swap.h> and switches it on.
    fn on(path: &str, pages: u32) -> Result<Self, Skip> {
        let disk = OpenOptions::new().write(true).open(path);
        let disk = disk.map_err(|error| Skip(format!("{path}: {error}")))?;
        let mut header = vec![0_u8; PAGE];
        header[1024..1028].copy_from_slice(&1_u32.to_le_bytes());
        header[1028..1032].copy_from_slice(&(pages - 1).to_le_bytes());
        header[PAGE - 10..].copy_from_slice(b"SWAPSPACE2");
        disk.write_all_at(&header, 0).unwrap();
        drop(disk);
        let path = CString::new(path).unwrap();
        // SAFETY: The path ends with 0.
        match unsafe { libc::swapon(path.as_ptr(), 0) } {
            0 => Ok(Self(path)),
            _ => Err(Skip(format!("swapon: {}", std::io::Error::last_os_error()))),
        }
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        // SAFETY: The path ends with 0.
        unsafe { libc::swapoff(self.0.as_ptr()) };
    }
}

fn swapped(env: &Env) -> Verdict {
    let _swap = Swap::on("/dev/ram0", 1024)?;
    let vm = env.vm();
    let area = slot::add(&vm, 16 * PAGE);
    (0..16).for_each(|page| area.store(page * PAGE + 8, 500 + page as u64));
    let offsets = [0, 7 * PAGE, 15 * PAGE];
    let (runner, _) = count(&vm, &offsets);
    let out = || host::counter("/proc/vmstat", "pswpout");
    let before = out();
    for _ in 0..10 {
        counts(&runner, &area, &offsets);
        // Pages that another CPU has just brought are in no list yet, so could
        // not be taken; this puts them there.
        host::set("/proc/sys/vm/drop_caches", "1");
        area.advise(0, 16 * PAGE, PAGEOUT).unwrap();
    }
    counts(&runner, &area, &offsets);
    println!("# {} pages were swapped out", out() - before);
    assert!(out() > before, "nothing was swapped out");
    (0..16).for_each(|page| assert_eq!(area.load(page * PAGE + 8), 500 + page as u64));
    drop(runner.stop());
    Ok(())
}
