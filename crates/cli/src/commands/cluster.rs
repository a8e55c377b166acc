//! `ordo cluster`.

use anyhow::Result;
use futures_util::future::join_all;
use ordo_client::Admin;
use ordo_client::proto::{AddNodeRequest, MoveNodeRequest};
use serde_json::json;

use crate::args::Global;
use crate::output::Output;
use crate::views::{Answers, Status};

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make the nodes of a node's configuration a cluster; once.
    Init,
    /// Show the cluster and its nodes.
    Status(StatusArgs),
    /// Add a node as a learner: it gets the data and has no vote.
    Add(Add),
    /// Make a learner that has caught up a voter.
    Promote(Node),
    /// Say where a node is that was started at another address, with the data it had.
    Move(Move),
    /// Take a node out of the cluster.
    Remove(Node),
    /// Hand leadership to another node.
    Transfer(Transfer),
}

#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    /// Also hash every node's whole state: equal at the same applied index.
    #[arg(long)]
    hash: bool,
}

#[derive(Debug, clap::Args)]
pub struct Add {
    /// Its number in the cluster, as in its configuration.
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    node_id: u64,
    /// Where the other nodes reach it, host:port.
    #[arg(long, value_name = "ADDR")]
    peer: String,
    /// Where clients reach it, host:port.
    #[arg(long, value_name = "ADDR")]
    public: String,
    /// Take the node of that number out first: it lost its data folder, or comes back with a new one.
    #[arg(long)]
    replace: bool,
}

#[derive(Debug, clap::Args)]
pub struct Move {
    /// Its number in the cluster.
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    node_id: u64,
    /// Where the other nodes reach it now, host:port.
    #[arg(long, value_name = "ADDR")]
    peer: String,
    /// Where clients reach it now, host:port.
    #[arg(long, value_name = "ADDR")]
    public: String,
}

#[derive(Debug, clap::Args)]
pub struct Node {
    /// Its number in the cluster.
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    node_id: u64,
}

#[derive(Debug, clap::Args)]
pub struct Transfer {
    /// To this node; otherwise to any other voter.
    #[arg(long, value_name = "NODE", value_parser = clap::value_parser!(u64).range(1..))]
    to: Option<u64>,
}

pub async fn run(global: &Global, command: Command) -> Result<()> {
    let admin = global.admin()?;
    let output = Output::new(global.output);
    match command {
        Command::Init => {
            let address = global.cluster.first().map_or("", String::as_str);
            let id = admin.init_cluster(address).await?;
            let object = json!({ "cluster_id": id.to_string() });
            output.done(&format!("cluster {id} initialized"), &object)
        }
        Command::Status(StatusArgs { hash }) => {
            output.card(&status(&admin, &global.cluster, hash).await?)
        }
        Command::Add(Add {
            node_id,
            peer,
            public,
            replace,
        }) => {
            let request = AddNodeRequest {
                node_id,
                peer_address: peer,
                public_address: public,
                replace,
            };
            admin.add_node(request).await?;
            let sentence = format!(
                "node {node_id} added as a learner; `ordo cluster promote {node_id}` gives it a vote"
            );
            output.done(&sentence, &json!({ "node_id": node_id, "role": "learner" }))
        }
        Command::Promote(Node { node_id }) => {
            admin.promote_node(node_id).await?;
            output.done(
                &format!("node {node_id} has a vote"),
                &json!({ "node_id": node_id, "role": "voter" }),
            )
        }
        Command::Move(Move {
            node_id,
            peer,
            public,
        }) => {
            let sentence = format!("node {node_id} is at {peer}, and clients reach it at {public}");
            let request = MoveNodeRequest {
                node_id,
                peer_address: peer,
                public_address: public,
            };
            admin.move_node(request).await?;
            output.done(&sentence, &json!({ "node_id": node_id, "moved": true }))
        }
        Command::Remove(Node { node_id }) => {
            admin.remove_node(node_id).await?;
            let object = json!({ "node_id": node_id, "removed": true });
            output.done(&format!("node {node_id} is out of the cluster"), &object)
        }
        Command::Transfer(Transfer { to }) => {
            let leader = admin.transfer_leadership(to).await?;
            output.done(
                &format!("node {leader} leads"),
                &json!({ "leader_id": leader }),
            )
        }
    }
}

/// Nodes that are asked for the status at most.
const NODES_MAX: usize = 64;

/// Asks every node there may be: those named, and those that answers name.
async fn status(admin: &Admin, named: &[String], hash: bool) -> Result<Status> {
    let mut answers = ask(admin, named, hash).await;
    if answers.values().all(Result::is_err) {
        // Waits for somebody as long as calls do, and fails as they do.
        admin.cluster_status().await?;
        answers = ask(admin, named, hash).await;
    }
    Ok(Status::new(named, answers))
}

async fn ask(admin: &Admin, named: &[String], hash: bool) -> Answers {
    let mut answers = Answers::new();
    let mut wanted: Vec<String> = named.to_vec();
    while !wanted.is_empty() && answers.len() < NODES_MAX {
        let calls = wanted.drain(..).map(|address| async move {
            let answer = match hash {
                true => admin.cluster_status_with_hash(&address).await,
                false => admin.cluster_status_of(&address).await,
            };
            (address, answer.map_err(|error| error.to_string()))
        });
        answers.extend(join_all(calls).await);
        let told = answers.values().flatten().flat_map(|answer| {
            let members = answer.nodes.iter().map(|node| &node.public_address);
            members.chain(&answer.configured_addresses)
        });
        wanted = told
            .filter(|address| !answers.contains_key(*address))
            .cloned()
            .collect();
        wanted.sort();
        wanted.dedup();
    }
    answers
}
