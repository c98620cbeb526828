//! An operation bound to its handler, its types erased, and the answer that comes of it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;

use crate::{
    Context, Description, EntityTag, Failure, Handle, HandleKeyed, HandleOnce, IdempotentRequest, Operation,
    Problem, Replayable, RequestDecoder, RequestIds, Response, SavedResponse,
};

/// An answer, ready for the wire: a success, or a refusal that is saved and given out again like one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// JSON; empty for 204.
    pub body: Bytes,
    /// The representation's validator.
    pub etag: Option<EntityTag>,
    /// The path of a newly created resource.
    pub location: Option<String>,
    /// The cursor of the page that follows.
    pub next_cursor: Option<String>,
    /// The request that was first given this answer, when that was another one.
    pub first: Option<RequestIds>,
}

impl Answer {
    /// The answer of `O` that consists of `response`.
    ///
    /// # Errors
    /// [`ProblemType::Internal`] for a response that cannot be serialised.
    pub fn of<O: Operation>(response: &O::Response) -> Result<Self, Problem> {
        let body = if O::STATUS == 204 {
            Bytes::new()
        } else {
            Bytes::from(serde_json::to_vec(response).map_err(|error| Problem::internal(&error))?)
        };
        Ok(Self {
            status: O::STATUS,
            body,
            etag: response.etag(),
            location: O::location(response),
            next_cursor: response.next_cursor().map(str::to_owned),
            first: None,
        })
    }

    /// The refusal `problem` of the request `cx`.
    pub fn refusal(problem: &Problem, cx: &Context) -> Self {
        Self {
            status: problem.kind.status(),
            body: problem.body(&cx.ids).to_json().into(),
            etag: None,
            location: None,
            next_cursor: None,
            first: None,
        }
    }
}

/// A future without its type.
type Pending<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Runs a request of the type `R`.
type RunTyped<H, R> = fn(Arc<H>, Arc<Context>, R) -> Pending<Result<Answer, Problem>>;

/// Runs a decoded operation.
type Run<H> = Box<dyn FnOnce(Arc<H>, Arc<Context>) -> Pending<Result<Answer, Problem>> + Send>;

/// Looks an answer up.
type FindSaved<H> =
    Box<dyn Fn(Arc<H>, IdempotentRequest) -> Pending<Result<Option<SavedResponse>, Problem>> + Send + Sync>;

/// Decodes and checks a payload.
type Decode<H> = Box<dyn Fn(&[u8]) -> Result<Decoded<H>, Problem> + Send + Sync>;

/// One operation bound to the handler type `H`, its types erased.
pub struct Endpoint<H> {
    /// The operation.
    pub description: Description,
    decode: Decode<H>,
    find_saved: Option<FindSaved<H>>,
}

/// A request that keeps every rule of its schema.
pub struct Decoded<H> {
    /// The request as JSON.
    pub body: Value,
    run: Run<H>,
}

impl<H> std::fmt::Debug for Decoded<H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoded").finish_non_exhaustive()
    }
}

impl<H> Decoded<H> {
    /// Runs the handler.
    pub fn run(self, handler: Arc<H>, cx: Arc<Context>) -> Pending<Result<Answer, Problem>> {
        (self.run)(handler, cx)
    }
}

impl<H> std::fmt::Debug for Endpoint<H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint").field("subject", &self.description.subject).finish_non_exhaustive()
    }
}

impl<H: Send + Sync + 'static> Endpoint<H> {
    /// Binds `O` to its handler.
    pub fn of<O>() -> Self
    where
        O: Operation,
        H: Handle<O>,
    {
        Self::bind::<O>(None, |handler, cx, request| {
            Box::pin(async move {
                let response = handler.handle(&cx, request).await.map_err(Failure::into_problem)?;
                Answer::of::<O>(&response)
            })
        })
    }

    /// Binds the keyed operation `O` to its handler.
    pub fn keyed<O>() -> Self
    where
        O: Operation<Response: Replayable>,
        H: HandleKeyed<O>,
    {
        let find_saved: FindSaved<H> = Box::new(|handler, write| {
            Box::pin(async move { handler.find_saved(&write).await.map_err(Failure::into_problem) })
        });
        Self::bind::<O>(Some(find_saved), |handler, cx, request| {
            Box::pin(async move { handler.handle(&cx, request).await.map_err(Failure::into_problem) })
        })
    }

    /// Binds an operation that is done once per key to its handler, which looks up its answers by itself.
    pub fn once<O>() -> Self
    where
        O: Operation,
        H: HandleOnce<O>,
    {
        Self::bind::<O>(None, |handler, cx, request| {
            Box::pin(async move { handler.handle(&cx, request).await.map_err(Failure::into_problem) })
        })
    }

    fn bind<O: Operation>(find_saved: Option<FindSaved<H>>, run: RunTyped<H, O::Request>) -> Self {
        let decoder = RequestDecoder::<O::Request>::new();
        Self {
            description: Description::of::<O>(),
            decode: Box::new(move |payload| {
                let (body, request) = decoder.decode(payload)?;
                Ok(Decoded { body, run: Box::new(move |handler, cx| run(handler, cx, request)) })
            }),
            find_saved,
        }
    }

    /// Decodes `payload` and checks it.
    ///
    /// # Errors
    /// [`ProblemType::MalformedRequest`] and [`ProblemType::ValidationFailed`].
    pub fn decode(&self, payload: &[u8]) -> Result<Decoded<H>, Problem> {
        (self.decode)(payload)
    }

    /// The answer saved for `write`; `None` also when the operation saves none.
    ///
    /// # Errors
    /// [`ProblemType::Unavailable`].
    pub fn find_saved(
        &self,
        handler: Arc<H>,
        write: IdempotentRequest,
    ) -> Pending<Result<Option<SavedResponse>, Problem>> {
        match &self.find_saved {
            Some(find_saved) => find_saved(handler, write),
            None => Box::pin(std::future::ready(Ok(None))),
        }
    }
}
