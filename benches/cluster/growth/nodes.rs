//! Nodes as they are seen from outside: by their API, their metrics, and what the system tells of their
//! processes and directories.

use std::{
    fs, io,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    Error,
    systems::{Quoring, Running, System as _, rest},
};

/// For an answer: longer than a node may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// For a connection on loopback.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Between two looks at something that is timed.
pub(crate) const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// Nodes are at rest once they have used less than this share of a core between two looks.
const REST_SHARE: f64 = 0.1;
/// See [`REST_SHARE`].
const REST_INTERVAL: Duration = Duration::from_secs(2);
/// How long is waited for that at most: what is measured next is measured all the same.
const REST_TIMEOUT: Duration = Duration::from_secs(300);

/// An answer.
pub(crate) struct Answer {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(given, _)| given.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }
}

/// One request over a connection of its own.
pub(crate) fn ask(port: u16, method: &str, target: &str, body: &str) -> io::Result<Answer> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let mut stream = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    let length = body.len();
    let head = format!("{method} {target} HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n");
    stream.write_all(format!("{head}content-length: {length}\r\n\r\n{body}").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let parsed = answer.split_once("\r\n\r\n").and_then(|(head, body)| {
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some(Answer { status, head: head.to_owned(), body: body.to_owned() })
    });
    parsed.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "this is no answer"))
}

/// `/cluster`, from any of these nodes.
pub(crate) fn cluster(ports: &[u16]) -> Result<Value, Error> {
    let mut last = "there is no node to ask".to_owned();
    for port in ports {
        match ask(*port, "GET", "/cluster", "") {
            Ok(answer) if answer.status == 200 => return Ok(serde_json::from_str(&answer.body)?),
            Ok(answer) => last = answer.body,
            Err(error) => last = error.to_string(),
        }
    }
    Err(format!("no /cluster: {last}").into())
}

/// A key for each shard.
pub(crate) fn key_of_each_shard(port: u16, shards: usize) -> Result<Vec<String>, Error> {
    let mut keys = std::collections::BTreeMap::new();
    for number in 0.. {
        if keys.len() >= shards {
            break;
        }
        let key = format!("shard-{number}");
        let answer = ask(port, "GET", &format!("/ring?key={key}"), "")?;
        let ring: Value = serde_json::from_str(&answer.body)?;
        keys.entry(ring["shard"].as_u64().ok_or("/ring names no shard")?).or_insert(key);
    }
    Ok(keys.into_values().collect())
}

/// The sum of a metric without labels over nodes.
pub(crate) fn metric(nodes: &[Running], name: &str) -> Result<f64, Error> {
    let mut sum = 0.0;
    for node in nodes {
        let text = ask(node.port, "GET", "/metrics", "")?.body;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        sum += value.ok_or_else(|| format!("node {} has no {name}", node.port))?.parse::<f64>()?;
    }
    Ok(sum)
}

/// The memory that a process holds, bytes (`VmRSS`, proc_pid_status(5)).
pub(crate) fn resident(pid: u32) -> Result<f64, Error> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()).ok_or("a process has no memory")?;
    Ok(kib.parse::<f64>()? * 1024.0)
}

/// The memory of the largest of these processes.
pub(crate) fn largest(nodes: &[Running]) -> Result<f64, Error> {
    let sizes = nodes.iter().map(|node| resident(node.pid)).collect::<Result<Vec<_>, _>>()?;
    Ok(sizes.into_iter().fold(0.0, f64::max))
}

/// Bytes of the files below a directory. Files may vanish while they are looked at.
pub(crate) fn files(dir: &Path) -> f64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(of) if of.is_dir() => files(&entry.path()),
        Ok(of) => of.len() as f64,
        Err(_) => 0.0,
    };
    entries.map(size).sum()
}

/// The processor time that a process has used, in ticks; `None` once it has ended.
fn ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    // Numbered from 1 in proc_pid_stat(5), of which the third is the first one here.
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    (fields.first() != Some(&"Z")).then_some(field(14)? + field(15)?)
}

/// Waits until files are merged and logs shortened, as far as the processor shows it.
pub(crate) fn until_at_rest(nodes: &[Running]) {
    let used = || nodes.iter().filter_map(|node| ticks(node.pid)).sum::<u64>();
    let begun = Instant::now();
    let mut before = used();
    while begun.elapsed() < REST_TIMEOUT {
        rest(REST_INTERVAL);
        let now = used();
        let spent = (now - before.min(now)) as f64 / rustix::param::clock_ticks_per_second() as f64;
        if spent < REST_SHARE * REST_INTERVAL.as_secs_f64() {
            return;
        }
        before = now;
    }
}

/// Ends processes as a crash would, and returns when they are gone.
pub(crate) fn kill(nodes: &[Running]) -> Result<(), Error> {
    for node in nodes {
        crate::systems::send(node.pid, rustix::process::Signal::KILL)?;
    }
    // The first thread of a process may have ended before the others, which hold its port.
    let listens = |node: &Running| TcpStream::connect(("127.0.0.1", node.port)).is_ok();
    while nodes.iter().any(|node| ticks(node.pid).is_some() || listens(node)) {
        rest(LOOK_INTERVAL);
    }
    Ok(())
}

/// Starts what does not run, and looks until `done` gives something; how long that took.
pub(crate) fn start_until<T>(
    quoring: &Quoring,
    within: Duration,
    mut done: impl FnMut(Instant) -> Result<Option<T>, Error>,
) -> Result<(T, Duration), Error> {
    let begun = Instant::now();
    let mut up = quoring.quoring(&["up", "--detach"]);
    let log = fs::File::create(quoring.dir().join("up-again.log"))?;
    let mut up = up.stdout(log.try_clone()?).stderr(log).spawn()?;
    let done = loop {
        if let Some(done) = done(begun)? {
            break (done, begun.elapsed());
        }
        let failed = up.try_wait()?.is_some_and(|status| !status.success());
        if failed {
            let said = fs::read_to_string(quoring.dir().join("up-again.log"))?;
            return Err(format!("quoring up has failed: {}", said.trim()).into());
        }
        if begun.elapsed() > within {
            return Err(format!("not within {within:?}").into());
        }
        rest(LOOK_INTERVAL);
    };
    if up.wait()?.success() { Ok(done) } else { Err("quoring up has failed".into()) }
}
