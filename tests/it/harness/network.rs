//! A network of its own for a cluster, which can really be cut while all processes go on.
//!
//! The test runs itself again in a new network namespace (unshare(1)): as root, or as the root of a
//! user namespace of its own, so that most machines need no root for it. In there every node has a
//! namespace as well, and all are joined by a bridge. A cut from A to B is an entry in A's table of
//! neighbours that gives B's address to a card that does not exist: from then on whatever A sends to B
//! is lost on the way, be it of an old connection or a new one, and all else goes through, B's packets to
//! A among it. Namespaces, cards and bridge end with the last process in them, however the test ends.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    fs,
    io::{self, Write},
    net::{IpAddr, Ipv4Addr},
    process::{Command, Output, Stdio},
    sync::Mutex,
    time::Duration,
};

use super::{HEAL, Node, Process, Workdir, eventually, ports, private};

/// Set in the process that runs within.
const WITHIN: &str = "QUORING_TEST_NETWORK";

/// The longest that a test may take within.
const LIMIT: Duration = Duration::from_secs(600);

/// Where the test itself stands, which no cut concerns.
const TEST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 254);

/// An address that no card has.
const NOBODY: &str = "02:00:00:00:00:fe";

/// A network with one place per node.
#[derive(Debug)]
pub(crate) struct Network {
    places: Mutex<BTreeMap<u16, Place>>,
}

/// A network namespace, which lasts as long as the process that does nothing else in it.
#[derive(Debug)]
struct Place {
    holder: Process,
    host: Ipv4Addr,
}

/// Runs a test in a network of its own. `test` is its whole name. Where the machine allows no such
/// network, it says so and passes.
pub(crate) async fn in_network(test: &str, run: impl AsyncFnOnce(Network)) {
    if env::var_os(WITHIN).is_some() {
        return run(Network::new()).await;
    }
    let _permit = private().await;
    let own: &[&str] = if rustix::process::geteuid().is_root() {
        &["unshare", "--net", "--"]
    } else {
        &["unshare", "--user", "--map-root-user", "--net", "--"]
    };
    let probe = Command::new(own[0]).args(&own[1..]).args(["ip", "link", "set", "lo", "up"]).output();
    if let Some(why) = refusal(probe) {
        // Past the harness, which shows nothing of a test that passes.
        let _ = writeln!(io::stderr(), "NOT RUN: {test}: this machine allows no network of its own: {why}");
        return;
    }
    let dir = Workdir::new("network");
    let log = dir.path().join("log");
    let out = fs::File::create(&log).unwrap();
    let mut command = Command::new(own[0]);
    command.args(&own[1..]).args(["setpriv", "--pdeathsig", "KILL", "--"]);
    command.arg(env::current_exe().unwrap()).args(["--exact", test, "--nocapture"]);
    command.env(WITHIN, "1").stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(out);
    let within = Process::spawn(command).unwrap();
    let status = within.wait(LIMIT).await;
    let told = fs::read_to_string(&log).unwrap();
    assert!(status.success() && told.contains("1 passed"), "{status}:\n{told}");
    println!("{told}");
}

fn refusal(output: io::Result<Output>) -> Option<String> {
    match output {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Some(error.to_string()),
    }
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(' ')
}

/// Runs `ip` here.
#[track_caller]
fn ip(line: &str) {
    let told = refusal(Command::new("ip").args(words(line)).output());
    assert_eq!(told, None, "ip {line}");
}

impl Network {
    fn new() -> Self {
        ip("link set lo up");
        ip("link add hub type bridge");
        ip(&format!("addr add {TEST}/24 dev hub"));
        ip("link set hub up");
        Self { places: Mutex::default() }
    }

    /// Gives the node at this port a place, and returns its address.
    pub(super) async fn add(&self, port: u16) -> IpAddr {
        let number = self.places.lock().unwrap().len() + 1;
        let host = Ipv4Addr::new(10, 0, 0, u8::try_from(number).unwrap());
        let mut command = Command::new("unshare");
        command.args(["--net", "--", "setpriv", "--pdeathsig", "KILL", "--", "sleep", "infinity"]);
        let holder = Process::spawn(command).unwrap();
        let pid = holder.pid();
        // Only once it is what it is to be: its last step is after it has its namespace.
        eventually("a namespace is made", HEAL, async || {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).map_err(|error| error.to_string())?;
            if name.trim() == "sleep" { Ok(()) } else { Err(name) }
        })
        .await;
        ip(&format!("link add v{number} type veth peer name eth0 netns {pid}"));
        ip(&format!("link set v{number} master hub up"));
        let place = Place { holder, host };
        place.ip(&format!("addr add {host}/24 dev eth0"));
        place.ip("link set eth0 up");
        place.ip("link set lo up");
        self.places.lock().unwrap().insert(port, place);
        ports::settle(port, host.into());
        host.into()
    }

    /// What stands before the command of a process that is to be at a node's place.
    pub(super) fn before(&self, port: u16) -> Vec<OsString> {
        self.places.lock().unwrap()[&port].before()
    }

    /// From now on nothing that `from` sends reaches `to`.
    pub(crate) fn cut(&self, from: &Node, to: &Node) {
        let places = self.places.lock().unwrap();
        let host = places[&to.port].host;
        places[&from.port].ip(&format!("neigh replace {host} lladdr {NOBODY} dev eth0 nud permanent"));
    }

    /// The same, in both directions.
    pub(crate) fn part(&self, one: &Node, other: &Node) {
        self.cut(one, other);
        self.cut(other, one);
    }

    /// Everything goes through again.
    pub(crate) fn heal(&self) {
        for place in self.places.lock().unwrap().values() {
            place.ip("neigh flush dev eth0 nud permanent");
        }
    }
}

impl Place {
    fn before(&self) -> Vec<OsString> {
        vec!["nsenter".into(), format!("--net=/proc/{}/ns/net", self.holder.pid()).into(), "--".into()]
    }

    /// Runs `ip` there.
    #[track_caller]
    fn ip(&self, line: &str) {
        let before = self.before();
        let mut command = Command::new(&before[0]);
        let told = refusal(command.args(&before[1..]).arg("ip").args(words(line)).output());
        assert_eq!(told, None, "ip {line}");
    }
}
