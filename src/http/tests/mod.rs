//! Tests of the front-end over real sockets, before a model of the cluster.

pub(crate) mod model;
