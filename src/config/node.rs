//! What one node is told at its start: resolved from its command line and, for coordinators, from
//! the `cluster.toml` beside it.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    str::FromStr,
};

use super::{Config, Memory, Settings};

/// All that a node is told at its start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Coordinator or worker, and what only one of them needs.
    pub role: Role,
    /// The IP address to listen on.
    pub listen: IpAddr,
    /// The one port of this node.
    pub port: u16,
    /// Where the other nodes reach this one.
    pub advertise: Address,
    /// Where it keeps its data; `None` keeps everything in memory.
    pub dir: Option<PathBuf>,
    /// How much memory its store may take.
    pub memory: Memory,
    /// For coordinators what they found a new cluster with. Workers take the cluster's settings
    /// from the coordinators and only start from these.
    pub settings: Settings,
}

/// Coordinator or worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// A member of the coordinator group.
    Coordinator {
        /// Every coordinator that founds the cluster, this one too, without duplicates; none: wait to be
        /// added to a cluster that is there.
        peers: Vec<Address>,
    },
    /// A keeper of data.
    Worker {
        /// Where to find coordinators; none: wait to be asked to join.
        coordinators: Vec<Address>,
        /// Where it stands: replicas of a shard prefer distinct zones.
        zone: Option<String>,
    },
}

/// What both roles are told on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeArgs {
    /// The port.
    pub port: u16,
    /// `--listen`
    pub listen: Option<IpAddr>,
    /// `--advertise`
    pub advertise: Option<Address>,
    /// `--cache`, bytes
    pub cache_bytes: Option<u64>,
    /// `--memtables`, bytes
    pub memtables_bytes: Option<u64>,
    /// `--queues`, bytes
    pub queues_bytes: Option<u64>,
}

/// Who founds the cluster that a coordinator belongs to, where it does not belong to one yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Founders {
    /// Those of `cluster.toml` if this port is one of them, else this coordinator alone.
    Default,
    /// These.
    Peers(Vec<Address>),
    /// Nobody: the cluster is there, and this coordinator waits to be added to it.
    None,
}

impl NodeArgs {
    /// Where a node listens unless told otherwise: requests are not authenticated, so that nothing
    /// but this machine reaches a node which was not told to be reached.
    pub const DEFAULT_LISTEN: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn listen(&self) -> IpAddr {
        self.listen.unwrap_or(Self::DEFAULT_LISTEN)
    }

    /// What is said here, and the rest as it is otherwise.
    fn memory(&self, otherwise: Memory) -> Memory {
        Memory {
            cache_bytes: self.cache_bytes.unwrap_or(otherwise.cache_bytes),
            memtables_bytes: self.memtables_bytes.unwrap_or(otherwise.memtables_bytes),
            queues_bytes: self.queues_bytes.unwrap_or(otherwise.queues_bytes),
        }
    }

    /// Where others reach this node, where that follows from the address it listens on.
    fn reachable(&self) -> Option<Address> {
        let listen = self.listen();
        (!listen.is_unspecified()).then(|| Address::from_ip(listen, self.port))
    }
}

impl Node {
    /// A coordinator. `founders` are those that found the cluster; none where it is to join one that
    /// is there. `dir` defaults to the one that `up` would use. The sentence of an error says what to
    /// change.
    pub fn coordinator(
        args: &NodeArgs,
        dir: Option<PathBuf>,
        founders: Founders,
        config: Option<&Config>,
    ) -> Result<Node, String> {
        let listed = config.filter(|config| config.coordinators.contains(&args.port));
        let joins = founders == Founders::None;
        let mut peers = match (founders, listed) {
            (Founders::Peers(peers), _) => peers,
            (Founders::Default, Some(config)) => config.coordinator_addresses(),
            (Founders::Default | Founders::None, _) => Vec::new(),
        };
        let advertise = match (&args.advertise, peers.is_empty()) {
            (Some(advertise), _) => advertise.clone(),
            (None, true) => args.reachable().ok_or_else(advertise_needed)?,
            (None, false) => find_self(args, &peers)?,
        };
        if peers.is_empty() && !joins {
            peers.push(advertise.clone());
        }
        if !joins && !peers.contains(&advertise) {
            return Err(format!("--peers must name every coordinator, this one ({advertise}) too"));
        }
        if let Some(twice) = peers.iter().enumerate().find(|(i, peer)| peers[..*i].contains(peer)) {
            return Err(format!("--peers names {} twice", twice.1));
        }
        let dir = dir.unwrap_or_else(|| match config {
            Some(config) => config.node_dir("coordinator", args.port),
            None => PathBuf::from(Config::DEFAULT_DATA_DIR).join(format!("coordinator-{}", args.port)),
        });
        Ok(Node {
            role: Role::Coordinator { peers },
            listen: args.listen(),
            port: args.port,
            advertise,
            dir: Some(dir),
            memory: args.memory(config.map(|config| config.memory).unwrap_or_default()),
            settings: config.map(|config| config.settings.clone()).unwrap_or_default(),
        })
    }

    /// A worker. `dir` is `None` where nothing is to be kept on disk.
    pub fn worker(
        args: &NodeArgs,
        dir: Option<PathBuf>,
        coordinators: Vec<Address>,
        zone: Option<String>,
    ) -> Result<Node, String> {
        let advertise = match &args.advertise {
            Some(advertise) => advertise.clone(),
            None => args.reachable().ok_or_else(advertise_needed)?,
        };
        if zone.as_ref().is_some_and(|zone| {
            zone.is_empty()
                || zone.chars().count() > Config::MAX_ZONE_CHARS
                || zone.chars().any(char::is_control)
        }) {
            return Err(format!("--zone must be 1 to {} printable characters", Config::MAX_ZONE_CHARS));
        }
        Ok(Node {
            role: Role::Worker { coordinators, zone },
            listen: args.listen(),
            port: args.port,
            advertise,
            dir,
            memory: args.memory(Memory::default()),
            settings: Settings::default(),
        })
    }
}

fn advertise_needed() -> String {
    "this node listens on all addresses; say with --advertise HOST:PORT where other nodes reach it".to_owned()
}

/// Which of the peers this coordinator is: the one it listens as, or the only one with its port.
fn find_self(args: &NodeArgs, peers: &[Address]) -> Result<Address, String> {
    let reachable = args.reachable();
    if let Some(own) = peers.iter().find(|peer| Some(*peer) == reachable.as_ref()) {
        return Ok(own.clone());
    }
    let mut same_port = peers.iter().filter(|peer| peer.port() == args.port);
    match (same_port.next(), same_port.next()) {
        (Some(own), None) => Ok(own.clone()),
        (None, _) => Err(format!(
            "--peers must name every coordinator, this one too; none of them has port {}",
            args.port
        )),
        (Some(_), Some(_)) => Err(format!(
            "more than one of --peers has port {}; say with --advertise HOST:PORT which of them this node is",
            args.port
        )),
    }
}

/// `HOST:PORT`: a name, an IPv4 address or a bracketed IPv6 address, and a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    text: String,
    port: u16,
}

/// Why a text is no [`Address`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be HOST:PORT, such as 127.0.0.1:7001")]
pub struct InvalidAddress;

impl Address {
    /// The longest host name (RFC 1035, section 2.3.4).
    const MAX_HOST_CHARS: usize = 253;

    fn new_unchecked(host: impl fmt::Display, port: u16) -> Self {
        Self { text: format!("{host}:{port}"), port }
    }

    /// The address of a host known to be well-formed.
    pub(super) fn new(host: &'static str, port: u16) -> Self {
        Self::new_unchecked(host, port)
    }

    /// The address of a port at an IP.
    pub fn from_ip(ip: IpAddr, port: u16) -> Self {
        match ip {
            IpAddr::V4(ip) => Self::new_unchecked(ip, port),
            IpAddr::V6(ip) => Self::new_unchecked(format_args!("[{ip}]"), port),
        }
    }

    /// `host:port`.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let (host, port) = text.rsplit_once(':').ok_or(InvalidAddress)?;
        if !port.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(InvalidAddress);
        }
        let port = port.parse::<u16>().ok().filter(|port| *port != 0).ok_or(InvalidAddress)?;
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let valid = match bracketed {
            Some(ip) => ip.parse::<std::net::Ipv6Addr>().is_ok(),
            None => {
                (1..=Self::MAX_HOST_CHARS).contains(&host.len())
                    && host
                        .bytes()
                        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
            }
        };
        if valid { Ok(Self::new_unchecked(host, port)) } else { Err(InvalidAddress) }
    }
}
