//! The whole story, from three empty nodes to the report.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use ordo_client::{Admin, Cluster};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

use super::cast::Cast;
use super::faults::Stage;
use super::feed;
use super::letters::Letters;
use super::nodes::Nodes;
use super::report::Report;
use super::screen::Screen;
use super::watch::{Event, Watch};
use super::{Args, INTERFACES};

/// How long an interface may stand still at the end before the demonstration gives up.
const STANDSTILL_MAX: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Plays it on nodes that are configured and not started.
pub async fn play(
    args: &Args,
    letters: Letters,
    screen: &Screen,
    nodes: &mut Nodes,
) -> Result<Report> {
    let cluster = Cluster::connect(nodes.addresses())?;
    let leader = nodes.start_all(&cluster).await?;
    screen.note(&format!(
        "three nodes run at {}; node {leader} leads",
        nodes.addresses().join(", ")
    ));
    let (events, happened) = mpsc::unbounded_channel();
    let mut cast = Cast::gather(&cluster, args, &events).await?;
    let doors = cast.doors();
    for ((name, _), door) in INTERFACES.iter().zip(&doors) {
        screen.note(&format!(
            "{name}: MLLP at {door}, then validate, enrich, route by two workers each, then the lab"
        ));
    }
    let total = letters.iter().map(|letters| letters.len() as u64).sum();
    screen.note(&format!("{total} messages, {} a second", args.rate));

    let admin = cluster.admin().timeout(Duration::from_secs(30));
    let tally = watch::Sender::new(0);
    let stage = Stage {
        cluster: &cluster,
        nodes,
        labs: &mut cast.labs,
        screen,
        answered: tally.subscribe(),
        total,
    };
    let story = async {
        let feed = feed::run(&letters, &doors, args.rate, &tally, &events);
        let faults = async {
            if args.no_faults {
                Ok(None)
            } else {
                stage.play().await.map(Some)
            }
        };
        let (fed, faults) = tokio::try_join!(feed, faults)?;
        settle(&admin).await?;
        // The watch lives as long as this future.
        let _ = events.send(Event::End);
        anyhow::Ok((fed, faults))
    };
    let watch = Watch::new(&letters, admin.clone(), screen);
    let ((fed, faults), seen) = tokio::try_join!(story, watch.run(happened))?;

    let mut report = Report::new(seen, faults);
    for (lane, (name, _)) in INTERFACES.iter().enumerate() {
        let interface = admin
            .get_interface(name)
            .await
            .with_context(|| format!("asking how far {name} is"))?;
        report.add(
            lane,
            &letters[lane],
            &fed[lane],
            &cast.labs[lane],
            &interface,
        );
    }
    cast.leave().await;
    Ok(report)
}

/// Waits until every interface is delivered to its end.
async fn settle(admin: &Admin) -> Result<()> {
    let (mut before, mut since) = (0, Instant::now());
    loop {
        let (mut done, mut last) = (0, 0);
        for (name, _) in INTERFACES {
            let interface = admin
                .get_interface(name)
                .await
                .with_context(|| format!("asking how far {name} is"))?;
            done += interface
                .destinations
                .iter()
                .map(|destination| destination.checkpoint)
                .min()
                .unwrap_or(0);
            last += interface.last_sequence;
        }
        if done == last {
            return Ok(());
        }
        if done > before {
            (before, since) = (done, Instant::now());
        }
        if since.elapsed() > STANDSTILL_MAX {
            bail!(
                "deliveries stand still: {done} of {last} are done; `ordo why` would say more (--keep)"
            );
        }
        sleep(LOOK_EVERY).await;
    }
}
