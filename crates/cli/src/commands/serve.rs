//! `ordo serve`.

use std::path::PathBuf;

use anyhow::Result;
use ordo_node::config::{Config, Overrides};

use super::shutdown::{Signals, input_ended};
use crate::exit::UsageError;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Every key of the file can be given in the environment, as ORDO_DATA_DIR or \
                        ORDO_RAFT__HEARTBEAT_MS; it wins over the file, and flags win over both. `ordo config check` \
                        prints what comes of a file. A new node waits for `ordo cluster init` or `ordo cluster add`."
)]
pub struct Args {
    /// The configuration file (TOML).
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// This node's number in the cluster.
    #[arg(long, value_name = "NUMBER")]
    node_id: Option<u64>,
    /// The data folder.
    #[arg(long, value_name = "FOLDER")]
    data_dir: Option<PathBuf>,
    /// Where clients connect.
    #[arg(long, value_name = "ADDR")]
    public: Option<String>,
    /// Where the other nodes connect.
    #[arg(long, value_name = "ADDR")]
    peer: Option<String>,
    /// Where health and metrics are served.
    #[arg(long, value_name = "ADDR")]
    http: Option<String>,
    /// Allow listening off loopback without encryption.
    #[arg(long)]
    allow_plaintext: bool,
    /// End when standard input ends: whoever started this node is gone.
    #[arg(long, hide = true)]
    exit_with_parent: bool,
}

pub async fn run(args: Args) -> Result<()> {
    ordo_node::abort_on_panic();
    let mut signals = Signals::new()?;
    let overrides = Overrides {
        node_id: args.node_id,
        data_dir: args.data_dir,
        public: args.public,
        peer: args.peer,
        http: args.http,
        allow_plaintext: args.allow_plaintext.then_some(true),
    };
    let config = Config::load(args.config.as_deref(), &overrides)
        .map_err(|errors| UsageError(format!("the configuration is wrong:\n{errors}")))?;
    let shutdown = async move {
        if args.exit_with_parent {
            tokio::select! {
                () = signals.arrived() => {}
                () = input_ended() => {}
            }
        } else {
            signals.arrived().await;
        }
    };
    Ok(ordo_node::serve::serve(config, shutdown).await?)
}
