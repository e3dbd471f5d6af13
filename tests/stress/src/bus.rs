// SPDX-License-Identifier: GPL-2.0

//! Writes that do not exit, while their registrations come and go and several
//! vCPUs and threads share the ring: no write is lost, and none is told twice.

use crate::host;
use crate::ktap::{Env, Test, Verdict};
use crate::load;
use crate::runner::{Flow, RunPage, Runner};
use guest::asm::{eax, ecx, qword_ptr, rcx};
use guest::Program;
use ioctl_api::bus::{RING_ENTRIES, RING_FIRST, RING_LAST, RING_LEN};
use kvm_ioctls::{IoEventAddress, NoDatamatch};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use vmm::{Exit, Vcpu, Vm};
use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

pub(crate) const TESTS: &[Test] = &[
    Test::new(
        "bus: an ioeventfd comes and goes, each write is told once",
        comes_and_goes,
    ),
    Test::new(
        "bus: two vCPUs and a reader share the ring, no write is lost",
        shared_ring,
    ),
];

const PORT: u16 = 0x40;

/// Writes to [`PORT`] and counts its rounds, for ever.
fn writer() -> Program {
    load::program(0, |a| {
        let mut again = a.create_label();
        a.mov(rcx, load::rounds_of(0))?;
        a.set_label(&mut again)?;
        a.out(u32::from(PORT), eax)?;
        a.inc(qword_ptr(rcx))?;
        a.jmp(again)?;
        Ok(vec![])
    })
}

fn take(event: &EventFd) -> u64 {
    event.read().unwrap_or(0)
}

/// Once the eventfd is taken back and empty it stays empty, although the guest
/// goes on writing; and what it did not tell, exits told.
fn comes_and_goes(env: &Env) -> Verdict {
    let vm = env.vm();
    let exits = Arc::new(AtomicU64::new(0));
    let count = exits.clone();
    let vcpu = load::boot(&vm, 0, &writer());
    let cpu = (host::cpus() > 1).then_some(1);
    let runner = Runner::start(&vm, vcpu, cpu, move |_, exit| {
        assert!(matches!(exit.unwrap(), Exit::Out(PORT, _)));
        count.fetch_add(1, SeqCst);
        Flow::Go
    });
    let event = EventFd::new(EFD_NONBLOCK).unwrap();
    let address = IoEventAddress::Pio(PORT.into());
    let mut signals = 0;
    for round in 0..100 {
        vm.fd()
            .register_ioevent(&event, &address, NoDatamatch)
            .unwrap();
        runner.wait("a signal", || {
            let new = take(&event);
            signals += new;
            new > 0
        });
        vm.fd()
            .unregister_ioevent(&event, &address, NoDatamatch)
            .unwrap();
        signals += take(&event);
        let before = exits.load(SeqCst);
        runner.wait("two exits", || exits.load(SeqCst) >= before + 2);
        assert_eq!(take(&event), 0, "a signal after the end, round {round}");
    }
    drop(runner.stop());
    let told = signals + exits.load(SeqCst);
    let rounds = load::word(&vm, load::rounds_of(0));
    // The last one may not be finished.
    assert!(told == rounds || told == rounds + 1, "{told} of {rounds}");
    Ok(())
}

const WRITES: u32 = 20_000;

/// Writes 0, 1, 2 .. to a port of its own and halts.
fn counting(index: u64) -> Program {
    load::program(index, |a| {
        let mut again = a.create_label();
        a.xor(eax, eax)?;
        a.mov(ecx, WRITES)?;
        a.set_label(&mut again)?;
        a.out(i32::from(port_of(index)), eax)?;
        a.inc(eax)?;
        a.dec(ecx)?;
        a.jnz(again)?;
        a.hlt()?;
        Ok(vec![])
    })
}

fn port_of(index: u64) -> u8 {
    0x40 + 4 * index as u8
}

/// Takes what is in the ring: ports and values.
fn drain(page: &RunPage, mut entry: impl FnMut(u32, u32)) {
    let (first, last) = (page.word(RING_FIRST), page.word(RING_LAST));
    let mut index = first.load(SeqCst);
    while index != last.load(SeqCst) {
        let at = RING_ENTRIES + 24 * index as usize;
        let word = |offset| page.word(at + offset).load(SeqCst);
        assert_eq!((word(8), word(12)), (4, 1), "length, and that it is a port");
        entry(word(0), word(16));
        index = (index + 1) % RING_LEN;
        first.store(index, SeqCst);
    }
}

/// Notes a guest's exits; the guest is done when it halts.
fn note(told: &Mutex<Vec<u32>>, exit: vmm::Result<Exit>) -> Flow {
    match exit.unwrap() {
        Exit::Out(_, data) => {
            let value = u32::from_le_bytes(data.try_into().unwrap());
            told.lock().unwrap().push(value);
            Flow::Go
        }
        Exit::Hlt => Flow::Done,
        other => panic!("{other:?}"),
    }
}

fn start(vm: &Vm, index: u64, vcpu: Vcpu, told: &Arc<Mutex<Vec<u32>>>) -> Runner {
    let told = told.clone();
    let cpu = Some(index as usize % host::cpus());
    Runner::start(vm, vcpu, cpu, move |_, exit| note(&told, exit))
}

fn shared_ring(env: &Env) -> Verdict {
    let vm = env.vm();
    vm.fd()
        .register_coalesced_mmio(IoEventAddress::Pio(0x40), 8)
        .unwrap();
    let told = [(); 2].map(|()| Arc::new(Mutex::new(Vec::new())));
    let vcpus = [0, 1].map(|index| load::boot(&vm, index, &counting(index)));
    let page = RunPage::new(&vm, &vcpus[1]);
    let mut ring: [Vec<u32>; 2] = Default::default();
    let mut indices = 0..;
    let runners = vcpus.map(|vcpu| {
        let index = indices.next().unwrap();
        start(&vm, index, vcpu, &told[index as usize])
    });
    let mut read = || {
        drain(&page, |port, value| {
            ring[(port as usize - 0x40) / 4].push(value);
        });
    };
    host::wait_until("both guests halt", || {
        read();
        runners.iter().all(Runner::is_over)
    });
    read();
    runners.into_iter().for_each(|runner| drop(runner.join()));
    for (ring, told) in ring.into_iter().zip(told) {
        let exits = std::mem::take(&mut *told.lock().unwrap());
        println!("# {} writes in the ring, {} exits", ring.len(), exits.len());
        assert!(ring.is_sorted(), "the ring is out of order");
        let mut all = [ring, exits].concat();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..WRITES), "lost, or told twice");
    }
    Ok(())
}
