//! The network does what it says: were it kinder than it claims, nothing that holds on it would be proved.

use std::{io, sync::Arc, time::Duration};

use quoring::peer::network::{Boxed, Network};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinHandle,
    time::{Instant, interval, timeout},
};

use super::net::{Net, Uplink};

const MS: Duration = Duration::from_millis(1);

fn two() -> Arc<Net> {
    let net = Net::new(1, &["a:1".into(), "b:1".into()]);
    net.start(0);
    net.start(1);
    // The clock of the network is that of the test.
    let running = net.clone();
    tokio::spawn(async move {
        let mut ticks = interval(MS);
        for now in 0.. {
            ticks.tick().await;
            running.advance_to(now);
        }
    });
    net
}

fn connect(net: &Arc<Net>) -> JoinHandle<io::Result<Boxed>> {
    tokio::spawn(Uplink(net.clone(), 0).connect("b:1"))
}

async fn pair(net: &Arc<Net>) -> (Boxed, Boxed) {
    let connecting = connect(net);
    let accepted = net.clone().accept(1).await;
    (connecting.await.unwrap().unwrap(), accepted)
}

async fn reads(socket: &mut Boxed, bytes: &[u8]) -> bool {
    let mut read = vec![0; bytes.len()];
    matches!(timeout(MS * 1_000, socket.read_exact(&mut read)).await, Ok(Ok(_)) if read == bytes)
}

#[tokio::test(start_paused = true)]
async fn bytes_come_later_and_in_order() {
    let net = two();
    let (mut a, mut b) = pair(&net).await;
    net.set_delay(0, 1, 5..=50);
    let sent = Instant::now();
    for word in ["one ", "two ", "three"] {
        a.write_all(word.as_bytes()).await.unwrap();
    }
    assert!(reads(&mut b, b"one two three").await);
    assert!(sent.elapsed() >= MS * 4, "{:?}", sent.elapsed());
    drop(a);
    assert_eq!(b.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_cut_holds_back_one_direction_until_it_heals() {
    let net = two();
    let (mut a, mut b) = pair(&net).await;
    net.set_cut(0, 1, true);
    a.write_all(b"held").await.unwrap();
    b.write_all(b"through").await.unwrap();
    assert!(reads(&mut a, b"through").await);
    assert!(!reads(&mut b, b"held").await);
    assert!(timeout(MS * 1_000, connect(&net)).await.is_err(), "a new connection comes to nothing");
    net.set_cut(0, 1, false);
    assert!(reads(&mut b, b"held").await);
}

#[tokio::test(start_paused = true)]
async fn resets_and_refusals_are_told() {
    let net = two();
    let (mut a, mut b) = pair(&net).await;
    a.write_all(b"lost").await.unwrap();
    net.reset(0, 1);
    assert_eq!(b.read(&mut [0]).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(a.write(b"x").await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    net.set_refused(0, 1, true);
    let refused = connect(&net).await.unwrap().err().unwrap();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    net.heal();
    pair(&net).await;
}

#[tokio::test(start_paused = true)]
async fn a_killed_process_is_heard_of_and_a_dead_machine_is_not() {
    let net = two();
    let (mut a, b) = pair(&net).await;
    net.stop(1, false);
    drop(b);
    assert_eq!(a.read(&mut [0]).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    let refused = connect(&net).await.unwrap().err().unwrap();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);

    net.start(1);
    let (mut a, b) = pair(&net).await;
    net.stop(1, true);
    drop(b);
    assert!(timeout(MS * 1_000, a.read(&mut [0])).await.is_err(), "silence");
    a.write_all(b"to nobody").await.unwrap();
    assert!(timeout(MS * 1_000, connect(&net)).await.is_err());
    net.start(1);
    assert_eq!(a.read(&mut [0]).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}
