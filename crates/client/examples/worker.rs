//! Works on the stage "validate" of every interface until Ctrl-C.
use ordo_client::{Assignment, Cluster, Outcome};

async fn validate(assignment: Assignment) -> Outcome {
    match std::str::from_utf8(assignment.payload()) {
        Ok(text) if text.trim().is_empty() => Outcome::filter("nothing in it"),
        Ok(text) => Outcome::complete_with(text.trim().to_owned()).with_header("validated", "yes"),
        Err(_) => Outcome::reject("not UTF-8"),
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // Any node will do: the client finds the leader and follows it.
    let cluster = Cluster::connect(["127.0.0.1:7400"])?;
    let worker = cluster
        .worker()
        .name("validator")
        .stage("validate", validate);
    // Drained on Ctrl-C: what it holds is finished and reported, and nothing counts as lost.
    worker.run_until(tokio::signal::ctrl_c()).await?;
    Ok(())
}
