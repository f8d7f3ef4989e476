//! From what was found in a run directory to the loop that goes on from there.

use super::adopt::{self, Adoptee, Speaker};
use super::ask::GRACE;
use super::builds;
use super::canary::{Attempts, Canary};
use super::instance::{Instance, Tell};
use super::leftovers::Leftovers;
use super::manager::Manager;
use super::open::{CONTROL_SOCKET, last_of};
use super::orders::{Order, PhaseEvent};
use super::view::Watched;
use super::world::{Beat, Site, World};
use crate::driver;
use crate::ids::InstanceId;
use crate::journal::{Journal, JournalState};
use crate::machine::Peer;
use crate::machine::recovery::{Recovery, name_of};
use crate::os::journal_file::JournalFile;
use crate::os::queue::Arrivals;
use crate::os::timers::Timers;
use std::collections::{BTreeMap, VecDeque};
use tokio::sync::{broadcast, mpsc};
use tokio::task::AbortHandle;

#[expect(clippy::too_many_arguments, reason = "called once: the parts of the world as they were found")]
pub(super) async fn begin(
    site: Site,
    journal: Journal<JournalFile>,
    past: JournalState,
    recovery: Recovery,
    canary: Option<Canary>,
    adoptees: Vec<Adoptee>,
    traces: Vec<InstanceId>,
    mut leftovers: Leftovers,
    orders: mpsc::Receiver<Order>,
    events: broadcast::Sender<PhaseEvent>,
    manager: Option<Manager>,
) -> AbortHandle {
    let (tell, news) = mpsc::unbounded_channel();
    let mut slots: BTreeMap<InstanceId, Instance> = BTreeMap::new();
    let mut died = Vec::new();
    for adoptee in adoptees {
        let (id, pid) = (adoptee.speaker.id, adoptee.speaker.pid);
        match instance_of(adoptee.speaker, &tell) {
            Ok(instance) => drop(slots.insert(id, instance)),
            Err(error) => {
                tracing::warn!(instance = %id, pid, %error, "gone while it was adopted");
                died.push(id);
                // what it left behind is ended like the rest of it
                slots.extend(adopt::group_of(id, None).map(|group| (id, Instance::contained(id, group))));
            }
        }
    }
    // its container alone, when it does not speak: whatever is in there can be ended
    if let Some(id) = recovery.successor
        && !slots.contains_key(&id)
        && let Some(group) = adopt::group_of(id, None)
    {
        slots.insert(id, Instance::contained(id, group));
    }
    let mut left: Vec<InstanceId> = past.containers.iter().copied().collect();
    left.extend(traces);
    left.extend(slots.keys());
    left.retain(|id| name_of(&recovery, *id).is_none());
    left.sort_unstable();
    left.dedup();
    for id in left {
        let pid = slots.remove(&id).and_then(|slot| slot.pid);
        leftovers.container(&site.ctl, id, pid).await;
    }

    let (machine, window) = Watched::new(recovery.supervisor.clone(), recovery.effects.clone());
    let mut beats = Timers::default();
    beats.arm(Beat::Heart, World::heartbeat());
    let mut world = World {
        site,
        journal,
        window,
        incumbent: None,
        successor: None,
        retiring: BTreeMap::new(),
        timers: Timers::default(),
        beats,
        heart: 0,
        arrivals: Arrivals::default(),
        inputs: VecDeque::from([crate::machine::Input::Start]),
        held: None,
        frames_in_a_row: 0,
        orders,
        news,
        tell,
        watch: None,
        transfer: None,
        attempts: Attempts::of(canary),
        builds: BTreeMap::new(),
        configured: None,
        starting: None,
        ask: None,
        waiting: None,
        replacing: None,
        quiet: Vec::new(),
        manager,
        progress: None,
        last: last_of(&past),
        events,
        stop: Vec::new(),
        grace: crate::crash::scaled(GRACE),
        last_exit: None,
        journal_trouble: None,
        missed: VecDeque::new(),
        cleaned: leftovers.told(),
    };
    // who serves now may have to be started again, from the same build
    builds::recall_each(&world.site.builds, slots.keys().copied().collect(), &world.tell);
    for (id, instance) in slots {
        match name_of(&recovery, id) {
            Some(Peer::Incumbent) => world.incumbent = Some(instance),
            Some(Peer::Successor) => world.successor = Some(instance),
            Some(Peer::Retiring(_)) => drop(world.retiring.insert(id, instance)),
            Some(Peer::Supervisor) | None => {}
        }
    }
    // nobody watches it: this is the only word of its end
    let died = died.into_iter().filter_map(|id| name_of(&recovery, id));
    world.inputs.extend(died.map(crate::machine::Input::Exited));
    // whoever wrote its end down may have died before the proposals were gone
    if let Some(ended) = &past.last_ended {
        world.withdraw(ended);
    }
    world.store_descriptors();
    tokio::spawn(run(machine, world)).abort_handle()
}

fn instance_of(speaker: Speaker, tell: &Tell) -> std::io::Result<Instance> {
    let Speaker { id, channel, hello, pid } = speaker;
    let pidfd = processkit::pidfd_open(pid)?;
    Instance::adopted(id, channel, hello, pidfd, adopt::group_of(id, Some(pid)), tell)
}

async fn run(mut machine: Watched, mut world: World) {
    let ending = driver::drive(&mut machine, &mut world).await;
    tracing::info!(?ending, "supervisor stopped");
    if let Err(error) = world.site.run.unlink_if_there(CONTROL_SOCKET) {
        tracing::warn!(%error, "operators' socket");
    }
    world.tell_the_rest();
    world.farewell();
}
