//! Create: stdio first, then the container, then everybody is told.

use super::{Task, adopt, blocking};
use crate::containers::{Record, Reservation};
use crate::convert;
use crate::error::Error;
use crate::events;
use crate::network::{self, Network, Owner, Wish};
use crate::options::{self, Options};
use crate::process::{Process, Streams};
use containerd_shim_protos::api::{CreateTaskRequest, CreateTaskResponse};
use containerd_shim_protos::events::task::{TaskCreate, TaskIO};
use oci_spec::runtime::Spec;
use runtime_core::children::Child;
use runtime_core::container::{self, Container, CreateRequest};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What Create has made.
struct Created {
    container: Container,
    child: Child,
    network: Option<Arc<Network>>,
}

impl Task {
    pub(super) async fn create(&self, request: CreateTaskRequest) -> Result<CreateTaskResponse, Error> {
        if !request.checkpoint.is_empty() {
            return Err(Error::Unimplemented("restore from a checkpoint is not implemented".into()));
        }
        let reservation = self.containers.reserve(&request.id)?;
        let options = Options::decode(request.options.as_ref())?;
        options.check()?;
        let streams = Streams::from(&request);
        let owner = (options.io_uid, options.io_gid);
        let (io, files) = self.open_io("create", &request.id, &streams, owner).await?;
        let io = Arc::new(io);
        let Created { container, mut child, network } = match self.create_container(&request, options, files).await {
            Ok(created) => created,
            Err(error) => {
                io.close().await;
                return Err(error);
            }
        };
        let init = Process::new(streams);
        init.set_io(io.clone());
        if let Err(error) = adopt(&init, &io, &mut child, "create") {
            let (task, id) = (self.clone(), request.id.clone());
            let undone = blocking("create", move || {
                let undone = container.delete().map_err(Error::runtime("delete"));
                task.unwire(&id, network.as_deref());
                undone
            })
            .await;
            if let Err(error) = undone {
                tracing::error!(id = request.id, error = error.text(), "undo a create");
            }
            io.close().await;
            return Err(error);
        }
        let bundle = PathBuf::from(&request.bundle);
        let record = Arc::new(Record::new(request.id.clone(), bundle, init, container, owner, network));
        Ok(self.created(request, reservation, record, child))
    }

    async fn create_container(
        &self,
        request: &CreateTaskRequest,
        options: Options,
        stdio: container::Stdio,
    ) -> Result<Created, Error> {
        let (id, bundle) = (request.id.clone(), PathBuf::from(&request.bundle));
        let rootfs = convert::rootfs(request.rootfs.clone());
        let task = self.clone();
        blocking("create", move || {
            let loaded = runtime_core::spec::load(&bundle).map_err(|error| Error::Spec(Arc::new(error)))?;
            let (mut spec, warnings) = loaded;
            let network = task.wire(&id, &bundle, &mut spec, &options.network)?;
            let options = container::Options {
                no_pivot_root: options.no_pivot_root,
                no_new_keyring: options.no_new_keyring,
                systemd_cgroup: options.systemd_cgroup,
                ..container::Options::default()
            };
            let request =
                CreateRequest { id: &id, bundle: &bundle, spec: &spec, rootfs: &rootfs, stdio, options: &options };
            match Container::create(request, &task.runtime) {
                Ok((container, mut child)) => {
                    child.warnings.splice(..0, warnings);
                    Ok(Created { container, child, network })
                }
                Err(error) => {
                    task.unwire(&id, network.as_deref());
                    Err(Error::runtime("create")(error))
                }
            }
        })
        .await
    }

    /// Gives the container a network, if that is ours to do.
    fn wire(
        &self,
        id: &str,
        bundle: &Path,
        spec: &mut Spec,
        options: &options::Network,
    ) -> Result<Option<Arc<Network>>, Error> {
        match Wish::of(id, spec, options)? {
            Wish::Nothing => Ok(None),
            Wish::Join(pod) => {
                let network = self.containers.get(&pod).ok().and_then(|record| record.network.clone());
                network.ok_or(network::Error::NoPod { pod })?.join(spec);
                Ok(None)
            }
            Wish::Make(asked) => {
                let owner = Owner { namespace: &self.namespace, id, bundle };
                let network = Network::create(&owner, &asked, options, spec, &self.runtime.children)?;
                Ok(Some(Arc::new(network)))
            }
        }
    }

    /// Takes the network of a container away.
    pub(super) fn unwire(&self, id: &str, network: Option<&Network>) {
        if let Some(Err(fault)) = network.map(|network| network.remove(&self.runtime.children)) {
            tracing::warn!(id, error = %fault, "the network is left to berth net gc");
        }
    }

    /// Tells of a new container. From here on its end is watched.
    fn created(
        &self,
        request: CreateTaskRequest,
        reservation: Reservation,
        record: Arc<Record>,
        child: Child,
    ) -> CreateTaskResponse {
        for warning in &child.warnings {
            tracing::warn!(id = record.id, "create: {warning}");
        }
        let pid = record.init.pid();
        let event = TaskCreate {
            container_id: request.id,
            bundle: request.bundle,
            rootfs: request.rootfs,
            io: Some(TaskIO::from(&record.init.streams)).into(),
            checkpoint: request.checkpoint,
            pid,
            ..TaskCreate::default()
        };
        self.events.publish(events::CREATE, &event);
        let oom = record.container.cgroup().watch_oom().unwrap_or_else(|error| {
            tracing::warn!(id = record.id, error = crate::error::chain(&error), "no OOM events");
            None
        });
        reservation.fulfil(record.clone());
        self.exits.watch_init(record, child, oom);
        CreateTaskResponse { pid, ..CreateTaskResponse::default() }
    }
}
