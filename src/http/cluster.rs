//! Requests about the cluster itself: its workers, its ring, who joins and who leaves.

use std::{
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
};

use hyper::StatusCode;
use serde_json::json;

use super::{
    error::{Kind, Problem},
    names::check_name,
    request::Call,
    response::{self, Response},
};
use crate::ids::{GroupId, NodeId, Position, WorkerId};

/// `GET` and `POST /ping`: registers a worker at the caller's own address.
pub(crate) async fn ping(call: Call) -> Result<Response, Problem> {
    let params = call.params()?;
    let id = worker_id(params.required("id")?)?;
    let port = port(params.required("port")?)?;
    let addr = address(call.client.ip(), port);
    call.backend().ping(id, addr, call.deadline).await?;
    Ok(response::text("OK"))
}

/// `GET /workers`: how many are active, then one a line.
pub(crate) async fn workers(call: Call) -> Result<Response, Problem> {
    let workers = call.backend().workers(call.deadline).await?;
    let mut lines = format!("{}\n", workers.len());
    for worker in workers {
        // Writing to a String cannot fail.
        let _ = writeln!(lines, "{},{}", worker.id, worker.addr);
    }
    Ok(response::text(lines))
}

/// `GET /cluster`.
pub(crate) async fn status(call: Call) -> Result<Response, Problem> {
    response::json(&call.backend().cluster(call.deadline).await?)
}

/// `GET /ring`: where a row, or a key, lives.
pub(crate) async fn ring(call: Call) -> Result<Response, Problem> {
    let params = call.params()?;
    let row = match (params.get("key")?, params.get("row")?) {
        (Some(row), None) | (None, Some(row)) => row,
        _ => return Err(Problem::invalid("give one of 'key' and 'row'")),
    };
    check_name(row)?;
    let located = call.backend().locate(row)?;
    let map = call.backend().require_map()?;
    let name = |node: &NodeId| map.workers.get(node).map(|worker| worker.id.as_str());
    response::json(&json!({
        "position": located.position,
        "shard": located.group,
        "leader": located.leader.as_ref().and_then(name),
        "replicas": located.replicas.iter().filter_map(name).collect::<Vec<_>>(),
    }))
}

/// `POST /cluster/workers/{id}/drain`.
pub(crate) async fn drain(call: Call) -> Result<Response, Problem> {
    set_draining(call, true).await
}

/// `DELETE /cluster/workers/{id}/drain`.
pub(crate) async fn undrain(call: Call) -> Result<Response, Problem> {
    set_draining(call, false).await
}

async fn set_draining(mut call: Call, draining: bool) -> Result<Response, Problem> {
    let [name] = call.take_names()?;
    let id = worker_id(&name)?;
    call.backend().drain(id, draining, call.deadline).await?;
    let mut answer = response::json(&json!({ "id": name, "draining": draining }))?;
    *answer.status_mut() = StatusCode::ACCEPTED;
    Ok(answer)
}

/// `POST /cluster/shards/{id}/split`.
pub(crate) async fn split(mut call: Call) -> Result<Response, Problem> {
    let [name] = call.take_names()?;
    let shard = shard_id(&name)?;
    let at = call.params()?.get("at")?.map(position).transpose()?;
    let (child, at) = call.backend().split(shard, at, call.deadline).await?;
    let mut answer = response::json(&json!({ "id": shard, "into": child, "at": at }))?;
    *answer.status_mut() = StatusCode::ACCEPTED;
    Ok(answer)
}

/// `DELETE /cluster/workers/{id}`.
pub(crate) async fn remove(mut call: Call) -> Result<Response, Problem> {
    let [name] = call.take_names()?;
    call.backend().remove(worker_id(&name)?, call.deadline).await?;
    Ok(response::text("OK"))
}

/// `POST /cluster/join`.
pub(crate) async fn join(call: Call) -> Result<Response, Problem> {
    let addr = host_and_port(call.params()?.required("addr")?)?;
    super::backend::changed(call.deadline, call.front.node.join(addr, call.deadline)).await?;
    Ok(response::text("OK"))
}

/// `GET /metrics`.
pub(crate) async fn metrics(call: Call) -> Result<Response, Problem> {
    call.front.node.measure();
    let text = call.front.prometheus.render();
    Ok(response::typed("text/plain; version=0.0.4; charset=utf-8", text))
}

/// `GET /healthz`: it answers, so it lives.
pub(crate) async fn healthz(_: Call) -> Result<Response, Problem> {
    Ok(response::text("OK"))
}

/// `GET /readyz`.
pub(crate) async fn readyz(call: Call) -> Result<Response, Problem> {
    match call.front.node.ready() {
        Ok(()) => Ok(response::text("OK")),
        Err(why) => Err(Problem::new(Kind::Unavailable, why)),
    }
}

fn worker_id(text: &str) -> Result<WorkerId, Problem> {
    text.parse().map_err(|error: crate::ids::InvalidWorkerId| Problem::invalid(error.to_string()))
}

fn shard_id(text: &str) -> Result<GroupId, Problem> {
    match text.parse::<u64>() {
        Ok(number) if number > 0 && text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(GroupId(number)),
        _ => Err(Problem::invalid("a shard's id is a number from 1 on; GET /cluster lists them")),
    }
}

fn position(text: &str) -> Result<Position, Problem> {
    text.parse().map_err(|error: crate::ids::InvalidPosition| Problem::invalid(format!("'at': {error}")))
}

fn port(text: &str) -> Result<u16, Problem> {
    match text.parse::<u16>() {
        Ok(port) if port > 0 && text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(port),
        _ => Err(Problem::invalid("a 'port' is a number from 1 to 65535")),
    }
}

/// `ip:port`, with an IPv6 address in brackets, and an IPv4 one that came in IPv6's clothes plain.
fn address(ip: IpAddr, port: u16) -> String {
    SocketAddr::new(ip.to_canonical(), port).to_string()
}

/// `HOST:PORT` as a person writes it.
pub(super) fn host_and_port(text: &str) -> Result<String, Problem> {
    let invalid = || Problem::invalid("an 'addr' is HOST:PORT, such as 10.0.0.7:8001 or [::1]:8001");
    let (host, number) = text.rsplit_once(':').ok_or_else(invalid)?;
    port(number).map_err(|_| invalid())?;
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let valid = match bracketed {
        Some(ip) => ip.parse::<std::net::Ipv6Addr>().is_ok(),
        // RFC 1123 names, and IPv4 addresses, which look the same.
        None => {
            (1..=253).contains(&host.len())
                && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
        }
    };
    if valid { Ok(text.to_owned()) } else { Err(invalid()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_urls_want_them() {
        for (ip, written) in [
            ("10.0.0.7", "10.0.0.7:8001"),
            ("::ffff:10.0.0.7", "10.0.0.7:8001"),
            ("::1", "[::1]:8001"),
            ("fe80::1", "[fe80::1]:8001"),
        ] {
            assert_eq!(address(ip.parse().unwrap(), 8001), written);
        }
    }

    #[test]
    fn ports_are_numbers_of_their_range() {
        assert_eq!(port("1").unwrap(), 1);
        assert_eq!(port("65535").unwrap(), 65_535);
        for bad in ["", "0", "65536", "-1", "+80", "8 0", "80.0", "http", "٣"] {
            assert!(port(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn shards_and_positions_are_numbers_of_their_kind() {
        assert_eq!(shard_id("17").unwrap(), GroupId(17));
        for bad in ["", "0", "-1", "+1", "1.5", "x", "18446744073709551616"] {
            assert!(shard_id(bad).is_err(), "{bad}");
        }
        assert_eq!(position("00000000000000fF").unwrap(), Position(255));
        for bad in ["", "0", "+000000000000001", "0x00000000000001", "00000000000000001", "000000000000000g"]
        {
            assert!(position(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn hosts_come_with_ports() {
        for good in ["localhost:8001", "10.0.0.7:1", "[::1]:65535", "db-1.example.org:80"] {
            assert_eq!(host_and_port(good).unwrap(), good);
        }
        for bad in [
            "",
            ":80",
            "localhost",
            "localhost:",
            "localhost:0",
            "::1:80",
            "[::1]",
            "[x]:80",
            "a b:80",
            "http://a:80",
        ] {
            assert!(host_and_port(bad).is_err(), "{bad}");
        }
    }
}
