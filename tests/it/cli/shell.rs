//! `quoring shell`, fed line by line.

use crate::harness::{Cluster, quoring_with_stdin};

#[tokio::test]
async fn a_script_of_commands() {
    let cluster = Cluster::shared().await;
    let script = "\
        PUT shell-a hello there\n\
        get shell-a\n\
        put:shell-b:a:b\n\
        get:shell-b\n\
        update:shell-b:second\n\
        GET shell-b\n\
        UPDATE shell-none x\n\
        delete:shell-a\n\
        GET shell-a\n\
        STATUS\n\
        HELP\n\
        nonsense\n\
        EXIT\n\
        PUT shell-after exit\n";
    let server = format!("http://127.0.0.1:{}", cluster.any().port);
    let output =
        quoring_with_stdin(cluster.dir.path(), &["shell", "--server", &server], script.as_bytes()).await;
    let said = format!("{}{}", output.stdout, output.stderr);
    for part in ["hello there", "a:b", "second", "PUT", &cluster.worker(0).id()] {
        assert!(said.contains(part), "{part}: {said}");
    }
    cluster.any().get("/kv/shell-b").await.says("second");
    for gone in ["shell-a", "shell-none", "shell-after"] {
        cluster.any().get(format!("/kv/{gone}")).await.problem(404);
    }
}
