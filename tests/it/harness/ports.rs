//! Ports for nodes.
//!
//! They are taken from below the range from which the kernel gives ports to outgoing connections: a
//! node that is down for a moment must find its port free when it comes back, whatever the clients
//! of other tests do.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, TcpListener},
    sync::{
        Mutex,
        atomic::{AtomicU16, Ordering},
    },
};

/// The lowest port used.
const FIRST: u16 = 10_000;

/// The kernel's default, where it does not tell.
const DEFAULT_EPHEMERAL: u16 = 32_768;

/// A port that nothing listens on, and that is given out once only in this process.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let count = first_ephemeral().saturating_sub(FIRST).max(1_000);
    // Test processes that run at the same time begin at different places.
    let offset = (std::process::id() % u32::from(count)) as u16;
    for _ in 0..count {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + (u32::from(offset) * 61 + u32::from(step)).rem_euclid(u32::from(count)) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free from {FIRST} on");
}

/// Where those nodes are that are not on this machine's own loopback.
static HOSTS: Mutex<BTreeMap<u16, IpAddr>> = Mutex::new(BTreeMap::new());

/// The node at this port is at another address.
pub(super) fn settle(port: u16, host: IpAddr) {
    HOSTS.lock().unwrap().insert(port, host);
}

/// Where the node at this port is.
pub(super) fn host_of(port: u16) -> IpAddr {
    HOSTS.lock().unwrap().get(&port).copied().unwrap_or(Ipv4Addr::LOCALHOST.into())
}

fn first_ephemeral() -> u16 {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    range.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(DEFAULT_EPHEMERAL)
}
