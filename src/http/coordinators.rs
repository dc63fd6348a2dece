//! Requests about the coordinator group: its members, and who comes and goes.
//!
//! An order is given as soon as the map says so; the group's members follow. The answer waits for
//! them as long as the request may take, so that orders can be given one after the other.

use std::time::Duration;

use hyper::StatusCode;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{
    cluster::host_and_port,
    error::Problem,
    request::Call,
    response::{self, Response},
};
use crate::router::calls::Seat;

/// Between two looks whether the members have followed.
const POLL: Duration = Duration::from_millis(50);

/// What the answer itself needs of the request's time.
const ANSWER: Duration = Duration::from_millis(500);

/// `GET /cluster/coordinators`.
pub(crate) async fn list(call: Call) -> Result<Response, Problem> {
    response::json(&call.backend().coordinators(call.deadline).await?)
}

/// `POST /cluster/coordinators`.
pub(crate) async fn add(call: Call) -> Result<Response, Problem> {
    let addr = host_and_port(call.params()?.required("addr")?)?;
    let seat = call.backend().add_coordinator(addr, call.deadline).await?;
    answer(&call, &seat).await
}

/// `DELETE /cluster/coordinators/{id}`.
pub(crate) async fn remove(mut call: Call) -> Result<Response, Problem> {
    let [which] = call.take_names()?;
    let seat = call.backend().remove_coordinator(which, call.deadline).await?;
    answer(&call, &seat).await
}

/// 200 once the group's members have followed, 202 where they still are on their way.
async fn answer(call: &Call, seat: &Seat) -> Result<Response, Problem> {
    let until = call.deadline.checked_sub(ANSWER).unwrap_or(call.deadline);
    let mut done = false;
    while !done && Instant::now() < until {
        // Where nobody can tell, as while another leads, it is asked again.
        done = call.backend().coordinators(until).await.is_ok_and(|group| group.settled);
        if !done {
            sleep(POLL).await;
        }
    }
    let Seat { node, addr, replaces } = seat;
    let mut answer =
        response::json(&json!({ "node": node, "addr": addr, "replaces": replaces, "done": done }))?;
    if !done {
        *answer.status_mut() = StatusCode::ACCEPTED;
    }
    Ok(answer)
}
