//! `CreateInterface` and `UpdateInterface`.

use super::Context;
use crate::command::{CreateInterface, UpdateInterface};
use crate::config::InterfaceConfig;
use crate::effect::Effect;
use crate::ids::Incarnation;
use crate::interface::{Destination, Interface};
use crate::mutation::{ConfigRow, Key};
use crate::reply::{Refusal, Reply};
use crate::rules::Rules;
use crate::state::destination_number;
use std::sync::Arc;

impl<R: Rules> Context<'_, R> {
    pub(super) fn create_interface(&mut self, command: CreateInterface) -> Result<Reply, Refusal> {
        if self.state.names.contains_key(command.name.as_str()) {
            return Err(Refusal::InterfaceExists(command.name));
        }
        let id = command.interface;
        // Another one in its place would take its messages away.
        if let Some(there) = self.state.interfaces.get(&id) {
            return Err(Refusal::InterfaceExists(there.name.to_string()));
        }
        let row = ConfigRow {
            name: command.name,
            incarnation: Incarnation(1),
            config_version: 1,
            config: command.config,
        };
        let mut interface = Interface::new(id, row);
        interface.touch_config();
        self.state.totals.dedup_messages += u64::from(interface.config.dedup_messages);
        self.state.names.insert(Arc::clone(&interface.name), id);
        self.state.interfaces.insert(id, interface);
        self.lane(id)?.effect(Effect::Interface { interface: id });
        Ok(Reply::Configured {
            interface: id,
            config_version: 1,
        })
    }

    pub(super) fn update_interface(&mut self, command: UpdateInterface) -> Result<Reply, Refusal> {
        let mut lane = self.lane(command.interface)?;
        let (given, current) = (command.config_version, lane.interface.config_version);
        if given != current {
            return Err(Refusal::ConfigVersion { given, current });
        }
        lane.interface.check_drained_for(&command.config)?;
        for gone in command.config.destinations.len()..lane.interface.destinations.len() {
            lane.delete(Key::Destination(
                command.interface,
                destination_number(gone),
            ));
        }
        lane.totals.dedup_messages -= u64::from(lane.interface.config.dedup_messages);
        lane.totals.dedup_messages += u64::from(command.config.dedup_messages);
        lane.interface.configure(command.config);
        for number in 0..lane.interface.destinations.len() {
            lane.destination_changed(destination_number(number));
        }
        lane.effect(Effect::Interface {
            interface: command.interface,
        });
        // A higher cap may let a failed message out.
        lane.release();
        Ok(Reply::Configured {
            interface: command.interface,
            config_version: current + 1,
        })
    }
}

impl Interface {
    fn touch_config(&mut self) {
        self.dirty.config = true;
        for number in 0..self.destinations.len() {
            self.touch_destination(destination_number(number));
        }
    }

    /// Stages change, and destinations go, only when nothing refers to them by number.
    fn check_drained_for(&self, config: &InterfaceConfig) -> Result<(), Refusal> {
        let stages = |config: &InterfaceConfig| {
            config
                .stages
                .iter()
                .map(|s| s.name.clone())
                .collect::<Vec<_>>()
        };
        let names = |config: &InterfaceConfig| {
            config
                .destinations
                .iter()
                .map(|d| d.name.clone())
                .collect::<Vec<_>>()
        };
        let change = if stages(config) != stages(&self.config) {
            "changing stages"
        } else if !names(config).starts_with(&names(&self.config)) {
            "removing or reordering destinations"
        } else {
            return Ok(());
        };
        let undelivered = self.slots.len() as u64;
        let dead_letters = self.dead_letters.len() as u64;
        match undelivered == 0 && dead_letters == 0 {
            true => Ok(()),
            false => Err(Refusal::NotDrained {
                change: change.to_owned(),
                undelivered,
                dead_letters,
            }),
        }
    }

    /// Takes a configuration over; a destination keeps its state by its name, a new one begins at the watermark.
    ///
    /// A receiver fences by epoch, so one whose destination goes and comes back under the same name must not see
    /// lower ones. New destinations begin at the highest epoch there is, and where one goes, those that stay, which
    /// then have nothing undelivered, keep it.
    fn configure(&mut self, config: InterfaceConfig) {
        let epochs = self.destinations.iter().map(|there| there.epoch);
        let highest = epochs.max().unwrap_or_default();
        let turns = self.destinations.iter().map(|there| there.turn);
        let highest_turn = turns.max().unwrap_or_default();
        let mut before = self.config.destinations.iter();
        let one_goes = before.any(|there| config.destination_number(&there.name).is_none());
        let state_of = |name: &str| match self.config.destination_number(name) {
            Some(number) => {
                let mut kept = self.destinations[usize::from(number.0)].clone();
                if one_goes {
                    kept.epoch = highest;
                    kept.turn = highest_turn;
                }
                kept
            }
            None => Destination {
                checkpoint: self.watermark,
                epoch: highest,
                turn: highest_turn,
                ..Destination::default()
            },
        };
        self.destinations = config
            .destinations
            .iter()
            .map(|destination| state_of(&destination.name))
            .collect();
        self.config = Arc::new(config);
        self.config_version += 1;
        self.touch_config();
    }
}
