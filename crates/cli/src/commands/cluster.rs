//! `ordo cluster`.

use anyhow::Result;
use ordo_client::proto::{AddNodeRequest, GetClusterStatusResponse};
use ordo_client::{Admin, CallError};
use serde_json::json;

use crate::args::Global;
use crate::output::Output;
use crate::views::Status;

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
        Command::Status(StatusArgs { hash }) => output.card(&status(&admin, hash).await?),
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

/// The whole as the leader sees it where one can be found, and every node's own word.
async fn status(admin: &Admin, hash: bool) -> Result<Status> {
    let mut whole = admin.cluster_status().await?;
    let mut own = Vec::new();
    for node in &whole.nodes {
        own.push(match hash {
            true => admin.cluster_status_with_hash(&node.public_address).await,
            false => admin.cluster_status_of(&node.public_address).await,
        });
    }
    let leads = |answer: &Result<GetClusterStatusResponse, CallError>| matches!(answer, Ok(answer) if answer.node_id == answer.leader_id && answer.term >= whole.term);
    // Only the leader knows how far every node's disk is.
    if let Some(Ok(leader)) = own.iter().find(|answer| leads(answer)).cloned()
        && leader
            .nodes
            .iter()
            .map(|node| node.node_id)
            .eq(whole.nodes.iter().map(|node| node.node_id))
    {
        whole = leader;
    }
    Ok(Status::new(whole, own))
}
