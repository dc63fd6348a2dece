//! Whole runs against a small server of the test's own: what is counted is what was served.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    sync::oneshot,
};

use super::{
    cpu::Processes,
    drive::{self, Measured},
    plan::{Plan, Target},
    report::Report,
    workload::{Name, Workload},
};

/// How a server answers its n-th request.
type Answer = fn(u64) -> Option<(u16, &'static str)>;

/// A server on a port of its own, in a thread of its own, until it is dropped.
struct Server {
    address: String,
    served: Arc<AtomicU64>,
    end: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    fn start(answer: Answer) -> Server {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let served = Arc::new(AtomicU64::new(0));
        let (end, ended) = oneshot::channel();
        let count = served.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                let accept = async {
                    loop {
                        let (stream, _) = listener.accept().await.unwrap();
                        tokio::spawn(serve(stream, answer, count.clone()));
                    }
                };
                tokio::select! {
                    () = accept => {}
                    _ = ended => {}
                }
            });
        });
        Server { address, served, end: Some(end), thread: Some(thread) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Answers requests until the client, or the answer, ends the connection.
async fn serve(stream: TcpStream, answer: Answer, served: Arc<AtomicU64>) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut body_bytes = 0;
        let mut batch = false;
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            batch |= line.starts_with("POST /batch");
            if let Some(length) = line.strip_prefix("content-length: ") {
                body_bytes = length.trim().parse().unwrap();
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; body_bytes];
        stream.read_exact(&mut body).await?;
        let Some((status, mut text)) = answer(served.fetch_add(1, Ordering::Relaxed)) else { return Ok(()) };
        let results;
        if batch && status == 200 {
            let ops = String::from_utf8(body).unwrap().matches(r#""op":"put""#).count();
            results = format!("[{}]", vec![r#"{"status":200,"version":1}"#; ops].join(","));
            text = &results;
        }
        let length = text.len();
        let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n\r\n");
        stream.write_all(format!("{head}{text}").as_bytes()).await?;
    }
}

fn plan(name: Name, servers: &[&Server]) -> Plan {
    Plan {
        name: "test".to_owned(),
        workload: Workload::from(name),
        run: true,
        target: Target::Quoring,
        servers: servers.iter().map(|server| server.address.parse().unwrap()).collect(),
        connections: 8,
        multiplex: 1,
        threads: 2,
        rate: None,
        keys: 1_050,
        value_bytes: 32,
        batch_ops: 10,
        load: false,
        duration: Duration::from_secs(60),
        warmup: Duration::ZERO,
        ops: Some(2_000),
        timeout: Duration::from_secs(30),
        seed: 1,
    }
}

fn run(plan: &Plan) -> Result<Measured, String> {
    drive::run(plan, &Processes::own(), &mut |_| {})
}

fn json(plan: &Plan, measured: Measured) -> serde_json::Value {
    serde_json::to_value(Report::new(plan, measured)).unwrap()
}

#[test]
fn every_operation_is_counted_once_and_all_servers_are_asked() {
    let servers = [Server::start(|_| Some((200, "OK"))), Server::start(|_| Some((200, "OK")))];
    let plan = plan(Name::F, &[&servers[0], &servers[1]]);
    let result = json(&plan, run(&plan).unwrap());
    let run = &result["run"];
    assert_eq!(run["total"]["ops"], 2_000);
    assert_eq!(run["failed"], 0);
    let of = |kind: &str| {
        let kinds = run["kinds"].as_array().unwrap();
        kinds.iter().find(|of| of["kind"] == kind).map_or(0, |of| of["ops"].as_u64().unwrap())
    };
    assert_eq!(of("read") + of("read_modify_write"), 2_000);
    let served = servers.each_ref().map(|server| server.served.load(Ordering::Relaxed));
    // A read-modify-write is two requests.
    assert_eq!(served[0] + served[1], of("read") + 2 * of("read_modify_write"));
    assert!(served.iter().all(|served| *served > 0), "{served:?}");
    assert_eq!(run["server_processes"], 1);
    assert!(run["sent_bytes"].as_u64().unwrap() > 2_000 * 40);
}

#[test]
fn a_load_writes_each_key_once_however_often_it_is_refused() {
    let flaky: Answer = |number| Some(if number % 5 == 0 { (503, "{}") } else { (200, "OK") });
    let server = Server::start(flaky);
    let plan = Plan { load: true, run: false, ..plan(Name::Put, &[&server]) };
    let result = json(&plan, run(&plan).unwrap());
    assert_eq!(result["load"]["keys"], 1_050);
    assert!(result["run"].is_null());
    // 10 batches of 100 and one of 50, and those of them that were refused.
    assert!(server.served.load(Ordering::Relaxed) > 11);

    let refusing = Server::start(|_| Some((503, r#"{"status":503,"detail":"not now","outcome":"none"}"#)));
    let plan = Plan { servers: vec![refusing.address.parse().unwrap()], connections: 1, ..plan };
    let error = run(&plan).err().unwrap();
    assert_eq!(error, "the load does not get on: 503: not now");
}

#[test]
fn failures_are_told_by_what_they_mean() {
    let answer: Answer = |number| match number % 4 {
        0 => Some((200, "OK")),
        1 => Some((503, r#"{"status":503,"detail":"no leader","outcome":"none"}"#)),
        2 => Some((504, r#"{"status":504,"detail":"no answer","outcome":"unknown"}"#)),
        _ => None,
    };
    let server = Server::start(answer);
    let plan = Plan { ops: Some(200), ..plan(Name::Put, &[&server]) };
    let result = json(&plan, run(&plan).unwrap());
    let count = |cause: &str, outcome: &str| {
        let failures = result["run"]["failures"].as_array().unwrap();
        let found = failures.iter().find(|of| of["cause"] == cause && of["outcome"] == outcome);
        found.map_or(0, |of| of["count"].as_u64().unwrap())
    };
    assert_eq!(result["run"]["total"]["ops"], 50);
    assert_eq!(count("503", "none"), 50);
    assert_eq!(count("504", "unknown"), 50);
    assert_eq!(count("connection broken", "unknown"), 50);
    assert_eq!(result["run"]["failed"], 150);
    assert!(result["run"]["longest_outage_ms"].as_f64().unwrap() > 0.0);
}

#[test]
fn an_open_loop_sends_what_is_due() {
    let server = Server::start(|_| Some((200, "OK")));
    let duration = Duration::from_millis(500);
    let plan = Plan { rate: Some(2_000.0), ops: None, duration, ..plan(Name::Put, &[&server]) };
    let result = json(&plan, run(&plan).unwrap());
    let (ops, unsent) = (&result["run"]["total"]["ops"], &result["run"]["unsent"]);
    assert_eq!(unsent, 0);
    // Each thread's schedule begins a little after the window does.
    assert!((800..=1_000).contains(&ops.as_u64().unwrap()), "{ops}");
}

#[test]
fn nobody_there_is_one_sentence() {
    let gone = Server::start(|_| None);
    let plan = plan(Name::Put, &[&gone]);
    drop(gone);
    let error = run(&plan).err().unwrap();
    assert!(error.starts_with("cannot connect to http://127.0.0.1:"), "{error}");
}

#[test]
fn a_run_in_vain_says_why() {
    let server = Server::start(|_| Some((503, r#"{"status":503,"detail":"no leader","outcome":"none"}"#)));
    let plan = Plan { ops: Some(10), ..plan(Name::Get, &[&server]) };
    let report = Report::new(&plan, run(&plan).unwrap());
    assert_eq!(report.in_vain().unwrap(), "not one operation succeeded (503: no leader)");
    assert!(report.text().contains("10 x 503 (not applied): no leader"), "{}", report.text());
}
