//! Interfaces: create, update, get, list.

use super::super::bytes_of;
use super::{Admin, limit_of, unknown_interface};
use crate::leader::{Glance, LineKey};
use ordo_core::{
    Command, CreateInterface, Destination, DestinationNumber, Interface, InterfaceId,
    RepairInterface, Try, TryKind, UpdateInterface, invariants, validate_interface_name,
};
use ordo_wire::convert::{interface_config_from_proto, interface_config_to_proto};
use ordo_wire::request::quoted;
use ordo_wire::status::Failure;
use ordo_wire::v1;

impl Admin {
    pub(super) async fn create(
        &self,
        request: v1::CreateInterfaceRequest,
    ) -> Result<v1::CreateInterfaceResponse, Failure> {
        validate_interface_name(&request.name)?;
        let config = interface_config_from_proto(request.config.unwrap_or_default())?;
        let interface = InterfaceId(self.context.draw_uuid());
        let name = request.name.clone();
        self.change(Command::CreateInterface(CreateInterface {
            interface,
            name,
            config,
        }))
        .await?;
        let interface = self
            .read_interface(&request.name, true, interface_to_proto)
            .await?;
        Ok(v1::CreateInterfaceResponse {
            interface: Some(interface),
        })
    }

    pub(super) async fn update(
        &self,
        request: v1::UpdateInterfaceRequest,
    ) -> Result<v1::UpdateInterfaceResponse, Failure> {
        let config = interface_config_from_proto(request.config.unwrap_or_default())?;
        let name = request.name;
        let interface = self
            .read_interface(&name, false, |interface, _| interface.id)
            .await?;
        let config_version = request.config_version;
        self.change(Command::UpdateInterface(UpdateInterface {
            interface,
            config_version,
            config,
        }))
        .await?;
        let interface = self.read_interface(&name, true, interface_to_proto).await?;
        Ok(v1::UpdateInterfaceResponse {
            interface: Some(interface),
        })
    }

    pub(super) async fn get(&self, name: &str) -> Result<v1::GetInterfaceResponse, Failure> {
        let interface = self.read_interface(name, false, interface_to_proto).await?;
        Ok(v1::GetInterfaceResponse {
            interface: Some(interface),
        })
    }

    pub(super) async fn repair(&self, name: &str) -> Result<v1::RepairInterfaceResponse, Failure> {
        let interface = self
            .read_interface(name, false, |interface, _| interface.id)
            .await?;
        tracing::warn!(interface = name, "an operator asks for a repair");
        self.change(Command::RepairInterface(RepairInterface { interface }))
            .await?;
        let interface = self.read_interface(name, true, interface_to_proto).await?;
        Ok(v1::RepairInterfaceResponse {
            interface: Some(interface),
        })
    }

    pub(super) async fn list(
        &self,
        request: v1::ListInterfacesRequest,
    ) -> Result<v1::ListInterfacesResponse, Failure> {
        let limit = limit_of(request.limit);
        let (prefix, after) = (request.prefix, request.after);
        let list = move |glance: Glance<'_>| {
            let named = |interface: &&Interface| interface.name.starts_with(&prefix);
            // Names are ordered: those that begin with the prefix stand together.
            let first = glance
                .state
                .interface_named(&prefix)
                .filter(|_| after < prefix);
            let from = if after > prefix {
                after.as_str()
            } else {
                prefix.as_str()
            };
            let found = first
                .into_iter()
                .chain(glance.state.interfaces_by_name(from).take_while(named));
            let mut interfaces: Vec<v1::Interface> = found
                .take(limit + 1)
                .map(|interface| interface_to_proto(interface, &glance))
                .collect();
            let more = interfaces.len() > limit;
            interfaces.truncate(limit);
            v1::ListInterfacesResponse {
                interfaces,
                more,
                applied_index: glance.applied_index,
            }
        };
        self.read(request.stale_ok, list).await
    }

    /// An interface's id and a destination's number by their names; an empty destination is none.
    pub(super) async fn find(
        &self,
        interface: &str,
        destination: &str,
    ) -> Result<(InterfaceId, Option<DestinationNumber>), Failure> {
        let wanted = destination.to_owned();
        let find = move |glance: Glance<'_>, name: &str| {
            let interface = glance.state.interface_named(name)?;
            Some((interface.id, interface.config.destination_number(&wanted)))
        };
        let name = interface.to_owned();
        let found = self.read(false, move |glance| find(glance, &name)).await?;
        let (id, number) = found.ok_or_else(|| unknown_interface(interface))?;
        if !destination.is_empty() && number.is_none() {
            let text = format!(
                "interface {interface:?} has no destination {}",
                quoted(destination)
            );
            return Err(Failure::new(v1::Reason::UnknownDestination, text));
        }
        Ok((id, number))
    }
}

/// An interface as the protocol has it.
pub(super) fn interface_to_proto(interface: &Interface, glance: &Glance<'_>) -> v1::Interface {
    let destinations = (0u8..).zip(&interface.destinations);
    v1::Interface {
        interface_id: bytes_of(interface.id.0),
        name: interface.name.to_string(),
        incarnation: interface.incarnation.0,
        config_version: interface.config_version,
        config: Some(interface_config_to_proto(&interface.config)),
        last_sequence: interface.last_sequence.0,
        watermark: interface.watermark.0,
        destinations: destinations
            .map(|(number, destination)| {
                destination_to_proto(interface, DestinationNumber(number), destination, glance)
            })
            .collect(),
        dead_letters: interface.dead_letters.len() as u64,
        failed: interface.failed,
        filtered: interface.filtered,
        quarantine: quarantine_to_proto(interface),
    }
}

fn quarantine_to_proto(interface: &Interface) -> Option<v1::Quarantine> {
    let invariant = interface.set_aside()?;
    let quarantine = interface.quarantine.as_deref();
    Some(v1::Quarantine {
        invariant: invariant.to_owned(),
        sentence: invariants::sentence(invariant).to_owned(),
        log_index: quarantine.map_or(0, |there| there.log_index),
        at_ms: quarantine.map_or(0, |there| there.at.0),
    })
}

pub(super) fn destination_to_proto(
    interface: &Interface,
    number: DestinationNumber,
    destination: &Destination,
    glance: &Glance<'_>,
) -> v1::DestinationState {
    v1::DestinationState {
        name: interface.destination_name(number).to_owned(),
        checkpoint: destination.checkpoint.0,
        epoch: destination.epoch.0,
        holder: destination
            .holder
            .as_ref()
            .map(|holder| holder.name.clone())
            .unwrap_or_default(),
        suspended_ms: destination
            .suspended_until
            .0
            .saturating_sub(glance.cluster_time().0),
        attempts: destination.attempts,
        reason: destination.reason.clone(),
        delivered: destination.delivered,
        skipped: destination.skipped,
        in_flight: glance.in_flight(LineKey {
            interface: interface.id,
            destination: number,
        }) as u64,
        repeats: destination.repeats,
        turn: destination.turn.0,
        tries: destination.tries.iter().map(try_to_proto).collect(),
    }
}

fn try_to_proto(tried: &Try) -> v1::DeliveryTry {
    let kind = match tried.kind {
        TryKind::Retry => v1::DeliveryTryKind::Retry,
        TryKind::Unavailable => v1::DeliveryTryKind::Unavailable,
        TryKind::Sent => v1::DeliveryTryKind::Sent,
    };
    v1::DeliveryTry {
        kind: kind.into(),
        at_ms: tried.at.0,
        reason: tried.reason.clone(),
    }
}
