//! GetTree: the Directory messages below a root, in pages.
//!
//! Directories go level by level, each once. A page token is the number of
//! directories sent before it: the walk is repeated from the root and skips
//! them. The tempting alternative, to keep the state of the walk between calls,
//! would have to be bounded, shared between nodes and expired.
//!
//! Directories are sent as the bytes that are stored. Decoded and encoded again
//! they might differ (fields of newer clients), and no longer hash to the digest
//! under which their parent names them.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use http::Request;
use prost::Message;
use tonic::{Status, body::Body, server::Grpc};
use tonic_prost::ProstCodec;
use weir_cluster::{Digest, blob::BlobStore};
use weir_proto::reapi::{Directory, GetTreeRequest};

use super::{
    arguments, directories,
    guard::{Limits, answer::with_room},
    method::Answer,
    status,
};

/// Largest page in bytes; clients take messages up to 4 MiB.
const PAGE_BYTES: usize = 3 << 20;

/// Memory that one tree is counted for: digests seen, directories read ahead,
/// and a page or two on their way.
const TREE_BYTES: u64 = 16 << 20;

/// Most directories on a page, whatever the client asks for.
const PAGE_DIRECTORIES: usize = 10_000;

/// Directories in one tree. Their digests are in memory while it is sent.
const TREE_DIRECTORIES: usize = 200_000;

/// GetTreeResponse, with the directories as the bytes that they are.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Page {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    directories: Vec<Bytes>,
    #[prost(string, tag = "2")]
    next_page_token: String,
}

/// Serves the method.
pub(crate) fn serve(
    store: Arc<dyn BlobStore>,
    limits: Arc<Limits>,
    limit: usize,
    request: Request<Body>,
) -> Answer {
    Box::pin(async move {
        let service = tower::service_fn(move |request: tonic::Request<GetTreeRequest>| {
            let (store, limits) = (store.clone(), limits.clone());
            async move {
                let room = limits.answers.room(TREE_BYTES).await?;
                Ok(with_room(pages(store, request.get_ref()).await?, room))
            }
        });
        let codec = ProstCodec::<Page, GetTreeRequest>::default();
        let mut grpc = Grpc::new(codec).max_decoding_message_size(limit);
        Ok(grpc.server_streaming(service, request).await)
    })
}

async fn pages(
    store: Arc<dyn BlobStore>,
    request: &GetTreeRequest,
) -> Result<impl Stream<Item = Result<Page, Status>> + use<>, Status> {
    arguments::instance(&request.instance_name)?;
    arguments::function(request.digest_function)?;
    let root = arguments::required(request.root_digest.as_ref(), "root_digest")?;
    let mut tree = Tree::new(store, root, request)?;
    let first = tree.next_page().await?;
    let rest = stream::unfold(Some(tree), |tree| async {
        let mut tree = tree?;
        match tree.next_page().await {
            Ok(Some(page)) => Some((Ok(page), Some(tree))),
            Ok(None) => None,
            Err(status) => Some((Err(status), None)),
        }
    });
    Ok(stream::iter(first.map(Ok)).chain(rest))
}

/// A tree that is being sent.
struct Tree {
    store: Arc<dyn BlobStore>,
    page_directories: usize,
    /// Directories still to be left out.
    skip: usize,
    /// Directories behind us.
    passed: usize,
    seen: HashSet<Digest>,
    /// Read, in order, not sent yet.
    ready: VecDeque<Bytes>,
    /// To be read, in order: this level and the next.
    level: Vec<Digest>,
    below: Vec<Digest>,
    root: Digest,
    started: bool,
}

impl Tree {
    fn new(
        store: Arc<dyn BlobStore>,
        root: Digest,
        request: &GetTreeRequest,
    ) -> Result<Self, Status> {
        let page_directories = match usize::try_from(request.page_size) {
            Ok(0) => PAGE_DIRECTORIES,
            Ok(size) => size.min(PAGE_DIRECTORIES),
            Err(_) => return Err(Status::invalid_argument("page_size is negative")),
        };
        let skip = match request.page_token.as_str() {
            "" => 0,
            token => token
                .parse()
                .ok()
                .filter(|skip| (1..=TREE_DIRECTORIES).contains(skip))
                .ok_or_else(|| {
                    Status::invalid_argument("page_token is not one of this server's")
                })?,
        };
        Ok(Self {
            store,
            page_directories,
            skip,
            passed: 0,
            seen: HashSet::from([root]),
            ready: VecDeque::new(),
            level: vec![root],
            below: Vec::new(),
            root,
            started: false,
        })
    }

    /// The next page; `None` when all is sent. The first page always comes,
    /// if need be empty.
    async fn next_page(&mut self) -> Result<Option<Page>, Status> {
        let mut page = Page::default();
        let mut bytes = 0;
        while page.directories.len() < self.page_directories {
            if self.ready.is_empty() && !self.read_more().await? {
                break;
            }
            let Some(next) = self.ready.pop_front() else {
                break;
            };
            if self.skip > 0 {
                self.skip -= 1;
                self.passed += 1;
                continue;
            }
            if !page.directories.is_empty() && bytes + next.len() > PAGE_BYTES {
                self.ready.push_front(next);
                break;
            }
            self.passed += 1;
            bytes += next.len();
            page.directories.push(next);
        }
        if page.directories.is_empty() && self.started {
            return Ok(None);
        }
        self.started = true;
        // One more look: a token is only given if something follows.
        if !self.ready.is_empty() || self.read_more().await? {
            page.next_page_token = self.passed.to_string();
        }
        Ok(Some(page))
    }

    /// Reads on until something is ready; false at the end of the tree.
    async fn read_more(&mut self) -> Result<bool, Status> {
        while self.ready.is_empty() {
            if self.level.is_empty() {
                self.level = std::mem::take(&mut self.below);
            }
            if self.level.is_empty() {
                return Ok(false);
            }
            let piece = directories::next_piece(&self.level).to_vec();
            let found = directories::read_piece(&*self.store, &piece).await;
            self.level.drain(..piece.len());
            for (digest, bytes) in piece.into_iter().zip(found) {
                match bytes.map_err(|error| status::of(&error))? {
                    Some(bytes) => self.take(digest, bytes)?,
                    // What is absent is left out; the root may not be.
                    None if digest == self.root => {
                        return Err(Status::not_found(format!("tree root {digest} not found")));
                    }
                    None => {}
                }
            }
        }
        Ok(true)
    }

    fn take(&mut self, digest: Digest, bytes: Bytes) -> Result<(), Status> {
        let broken = |what: &str| {
            Status::invalid_argument(format!(
                "blob {digest} cannot be sent as a Directory: {what}"
            ))
        };
        if bytes.len() > PAGE_BYTES {
            return Err(broken(
                "it does not fit into a message; read it by ByteStream",
            ));
        }
        let directory = Directory::decode(&bytes[..]).map_err(|_| broken("it is malformed"))?;
        for node in directory.directories {
            let child = arguments::required(node.digest.as_ref(), "digest")
                .map_err(|error| broken(error.message()))?;
            if self.seen.insert(child) {
                self.below.push(child);
            }
        }
        if self.seen.len() > TREE_DIRECTORIES {
            return Err(Status::invalid_argument(format!(
                "tree has more than {TREE_DIRECTORIES} directories; read it level by level"
            )));
        }
        self.ready.push_back(bytes);
        Ok(())
    }
}
