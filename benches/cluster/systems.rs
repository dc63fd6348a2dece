//! The two systems as processes on loopback: started in an empty directory, and stopped when dropped.

use std::{
    fmt::Write as _,
    fs::{self, File},
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::Error;

/// How long a system may take to be ready.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Between two questions whether it is.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// A running system.
pub(crate) trait System {
    fn name(&self) -> &'static str;

    /// What tells `quoring bench` whom the load is for, and whose CPU time counts.
    fn words(&self) -> Vec<String>;

    fn dir(&self) -> &Path;

    /// Sends a signal to a node that leads: to another one each time, where there are several.
    fn take_leader(&mut self, time: u32, signal: Signal) -> Result<(), Error>;

    /// Starts again what was taken, and returns when the system is whole.
    fn heal(&mut self) -> Result<(), Error>;
}

pub(crate) fn send(child: u32, signal: Signal) -> Result<(), Error> {
    let pid = i32::try_from(child).ok().and_then(Pid::from_raw).ok_or("a process has no number")?;
    Ok(kill_process(pid, signal)?)
}

/// Ports that nobody listens on at the moment.
fn free_ports<const N: usize>() -> io::Result<[u16; N]> {
    let listeners = (0..N).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<io::Result<Vec<_>>>()?;
    let mut ports = [0; N];
    for (port, listener) in ports.iter_mut().zip(&listeners) {
        *port = listener.local_addr()?.port();
    }
    Ok(ports)
}

/// The first line that a program says about its version.
pub(crate) fn version(program: &Path, flag: &str) -> io::Result<String> {
    let output = Command::new(program).arg(flag).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// Three members of etcd, with their default settings.
pub(crate) struct Etcd {
    dir: PathBuf,
    client_ports: [u16; 3],
    commands: Vec<Command>,
    members: Vec<Child>,
}

impl Etcd {
    pub(crate) fn start(binary: &Path, dir: &Path) -> Result<Etcd, Error> {
        let ports = free_ports::<6>()?;
        let (client_ports, peer_ports) = ([ports[0], ports[1], ports[2]], &ports[3..]);
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let cluster: Vec<_> =
            peer_ports.iter().enumerate().map(|(member, port)| format!("m{member}={}", url(*port))).collect();
        let (commands, members) = (Vec::new(), Vec::new());
        let mut etcd = Etcd { dir: dir.to_owned(), client_ports, commands, members };
        for (member, (client, peer)) in client_ports.iter().zip(peer_ports).enumerate() {
            let name = format!("m{member}");
            let log = File::create(dir.join(format!("{name}.log")))?;
            let mut command = Command::new(binary);
            command
                .args(["--name", &name])
                .arg("--data-dir")
                .arg(dir.join(&name))
                .args(["--listen-client-urls", &url(*client), "--advertise-client-urls", &url(*client)])
                .args(["--listen-peer-urls", &url(*peer), "--initial-advertise-peer-urls", &url(*peer)])
                .args(["--initial-cluster", &cluster.join(","), "--initial-cluster-state", "new"])
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log);
            etcd.members.push(command.spawn()?);
            etcd.commands.push(command);
        }
        etcd.wait()?;
        Ok(etcd)
    }

    /// Returns when every member is healthy.
    fn wait(&mut self) -> Result<(), Error> {
        let deadline = Instant::now() + START_TIMEOUT;
        for (member, port) in self.client_ports.iter().enumerate() {
            while !is_healthy(*port) {
                let log = self.dir.join(format!("m{member}.log"));
                if let Some(status) = self.members[member].try_wait()? {
                    let end = fs::read_to_string(log)?;
                    let end = end.lines().last().unwrap_or_default();
                    return Err(format!("etcd has ended ({status}): {end}").into());
                }
                if Instant::now() > deadline {
                    return Err(format!("etcd is not healthy after {START_TIMEOUT:?}").into());
                }
                pause();
            }
        }
        Ok(())
    }

    /// The member that leads, as `etcdctl`, which lies beside etcd, tells.
    fn leader(&self) -> Result<usize, Error> {
        let etcdctl = Path::new(self.commands[0].get_program()).with_file_name("etcdctl");
        for (member, port) in self.client_ports.iter().enumerate() {
            let endpoint = format!("http://127.0.0.1:{port}");
            let words = ["--endpoints", &endpoint, "endpoint", "status", "--write-out", "json"];
            let output = Command::new(&etcdctl).args(words).output()?;
            let status: Value = serde_json::from_slice(&output.stdout)?;
            let status = &status[0]["Status"];
            if status["leader"].is_u64() && status["leader"] == status["header"]["member_id"] {
                return Ok(member);
            }
        }
        Err("no member of etcd says that it leads".into())
    }
}

pub(crate) fn pause() {
    rest(POLL_INTERVAL);
}

#[expect(clippy::disallowed_methods, reason = "how another process is, only asking again can tell")]
pub(crate) fn rest(time: Duration) {
    std::thread::sleep(time);
}

/// Whether a member says that it is, which needs a leader.
fn is_healthy(port: u16) -> bool {
    let ask = || -> io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(START_TIMEOUT))?;
        stream.write_all(b"GET /health HTTP/1.0\r\nhost: etcd\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.contains(r#""health":"true""#))
}

impl System for Etcd {
    fn name(&self) -> &'static str {
        "etcd"
    }

    fn words(&self) -> Vec<String> {
        let join = |words: Vec<String>| words.join(",");
        let servers = self.client_ports.iter().map(|port| format!("http://127.0.0.1:{port}")).collect();
        let pids = self.members.iter().map(|member| member.id().to_string()).collect();
        let words = ["--target", "etcd", "--server", &join(servers), "--pids", &join(pids)];
        words.map(str::to_owned).to_vec()
    }

    fn dir(&self) -> &Path {
        &self.dir
    }

    fn take_leader(&mut self, _time: u32, signal: Signal) -> Result<(), Error> {
        send(self.members[self.leader()?].id(), signal)
    }

    fn heal(&mut self) -> Result<(), Error> {
        for (member, command) in self.members.iter_mut().zip(&mut self.commands) {
            if member.try_wait()?.is_some() {
                *member = command.spawn()?;
            }
        }
        self.wait()
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for member in &mut self.members {
            // It may have ended already.
            let _ = member.kill();
            let _ = member.wait();
        }
    }
}

/// Three coordinators and three workers, as they are told to be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape<'s> {
    pub(crate) shards: u32,
    /// Whether the load goes to the workers alone.
    pub(crate) workers_only: bool,
    /// Further lines of `[cluster]`.
    pub(crate) settings: &'s str,
}

/// Three coordinators and three workers.
pub(crate) struct Quoring {
    dir: PathBuf,
    servers: Vec<u16>,
    /// `quoring up`, which stops its nodes when it is stopped.
    up: Child,
    /// Read on, `up` would not care; closed, it would.
    _said: BufReader<ChildStdout>,
}

impl Quoring {
    pub(crate) fn start(dir: &Path, shape: Shape<'_>) -> Result<Quoring, Error> {
        let Shape { shards, workers_only, settings } = shape;
        let ports = free_ports::<6>()?;
        let (coordinators, workers) = ports.split_at(3);
        let mut text =
            format!("[cluster]\nname = \"bench\"\nreplication = 3\nshards = {shards}\n{settings}\n");
        for port in coordinators {
            writeln!(text, "[[coordinator]]\nport = {port}")?;
        }
        for port in workers {
            writeln!(text, "[[worker]]\nport = {port}")?;
        }
        let config = dir.join("cluster.toml");
        fs::write(&config, text)?;
        let program = env!("CARGO_BIN_EXE_quoring");
        let mut up = Command::new(program)
            .args(["up", "--config"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(dir.join("up.log"))?)
            .spawn()?;
        let mut said = BufReader::new(up.stdout.take().ok_or("quoring up has no output")?);
        let servers = if workers_only { workers.to_vec() } else { ports.to_vec() };
        let mut line = String::new();
        while !line.starts_with("The cluster ") {
            line.clear();
            if said.read_line(&mut line)? == 0 {
                let why = fs::read_to_string(dir.join("up.log"))?;
                return Err(format!("quoring up has ended ({}): {}", up.wait()?, why.trim()).into());
            }
        }
        let mut quoring = Quoring { dir: dir.to_owned(), servers, up, _said: said };
        quoring.heal()?;
        Ok(quoring)
    }

    /// The command `quoring`, about this cluster.
    pub(crate) fn quoring(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_quoring"));
        command.args(words).arg("--config").arg(self.dir.join("cluster.toml"));
        command
    }

    pub(crate) fn command(&self, words: &[&str]) -> Result<Vec<u8>, Error> {
        let output = self.quoring(words).output()?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned().into());
        }
        Ok(output.stdout)
    }
}

/// A node that runs.
#[derive(Debug, Clone)]
pub(crate) struct Running {
    pub(crate) pid: u32,
    pub(crate) port: u16,
}

impl Quoring {
    /// The nodes of a role that run.
    pub(crate) fn nodes(&self, role: &str) -> Result<Vec<Running>, Error> {
        let status: Value = serde_json::from_slice(&self.command(&["status", "--json"])?)?;
        let nodes = status["nodes"].as_array().ok_or("quoring status lists no nodes")?;
        let running = |node: &Value| {
            let port = node["addr"].as_str()?.rsplit_once(':')?.1.parse().ok()?;
            Some(Running { pid: u32::try_from(node["pid"].as_u64()?).ok()?, port })
        };
        let of_role: Vec<_> = nodes.iter().filter(|node| node["role"] == role).filter_map(running).collect();
        if of_role.is_empty() { Err(format!("no {role} runs").into()) } else { Ok(of_role) }
    }

    /// Writes another worker into cluster.toml, to be started with `up`.
    pub(crate) fn add_worker(&self) -> Result<u16, Error> {
        let [port] = free_ports::<1>()?;
        let mut config = File::options().append(true).open(self.dir.join("cluster.toml"))?;
        writeln!(config, "[[worker]]\nport = {port}")?;
        Ok(port)
    }
}

impl System for Quoring {
    fn name(&self) -> &'static str {
        "quoring"
    }

    fn words(&self) -> Vec<String> {
        let servers: Vec<_> = self.servers.iter().map(|port| format!("http://127.0.0.1:{port}")).collect();
        let config = self.dir.join("cluster.toml").display().to_string();
        ["--server", &servers.join(","), "--config", &config].map(str::to_owned).to_vec()
    }

    fn dir(&self) -> &Path {
        &self.dir
    }

    /// Every worker leads some shards.
    fn take_leader(&mut self, time: u32, signal: Signal) -> Result<(), Error> {
        let workers = self.nodes("worker")?;
        send(workers[time as usize % workers.len()].pid, signal)
    }

    fn heal(&mut self) -> Result<(), Error> {
        self.command(&["up", "--detach", "--wait"])?;
        Ok(())
    }
}

impl Drop for Quoring {
    fn drop(&mut self) {
        // It may have ended already; it was not waited for, so the number is still its own.
        let _ = send(self.up.id(), Signal::TERM);
        let _ = self.up.wait();
        // Nodes that were started again are not its own.
        let _ = self.command(&["down"]);
    }
}
