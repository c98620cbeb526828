//! Writes that a client has named: each takes effect once, and is answered once.

use aws_lc_rs::hmac;
use contract::auth::Email;
use contract::{Answer, Context, Failure, IdempotentRequest, Operation, Outcome, Problem, ProblemType};

use super::Auth;
use crate::store::{Finish, SavedAnswer, Saving};

impl Auth {
    /// Does `work` unless it was done under the same key before: then its answer is given again, or, where that held
    /// a secret, the answer that it was given. What is refused is not saved: nothing was done.
    ///
    /// Keys belong to the caller; without one, to `address`.
    pub(super) async fn once<O, Fut>(
        &self,
        cx: &Context,
        address: Option<&Email>,
        work: impl FnOnce(Finish) -> Fut + Send,
    ) -> Result<Answer, Failure<O::Error>>
    where
        O: Operation,
        Fut: Future<Output = Result<O::Response, Failure<O::Error>>> + Send,
    {
        let answer = |response: &O::Response| Answer::of::<O>(response).map_err(|_| Failure::Internal);
        let Some(write) = &cx.write else {
            return answer(&work(Finish::by(cx.deadline)).await?);
        };
        let saving = self.saving::<O>(cx, write, address);
        if let Some(saved) = self.store.saved_answer(&saving).await? {
            return self.given_again(cx, &saving, saved);
        }
        let finish = Finish { deadline: cx.deadline, saving: Some(saving.clone()) };
        match work(finish).await {
            Ok(response) => answer(&response),
            // Another one with the same key may have been faster, and be the reason.
            Err(failure) => match self.store.saved_answer(&saving).await {
                Ok(Some(saved)) => self.given_again(cx, &saving, saved),
                Ok(None) | Err(_) => Err(failure),
            },
        }
    }

    /// What is saved of the answer, and where. Bodies may hold passwords and addresses, of which a plain hash would
    /// reveal too much.
    fn saving<O: Operation>(
        &self,
        cx: &Context,
        write: &IdempotentRequest,
        address: Option<&Email>,
    ) -> Saving {
        let keyed = |parts: &[&[u8]]| {
            let mut context = hmac::Context::with_key(&self.answers.hashes);
            parts.iter().for_each(|part| context.update(part));
            let mut hash = [0; 32];
            hash.copy_from_slice(context.sign().as_ref());
            hash
        };
        let scope = match address {
            Some(address) => keyed(&[b"address ", address.as_str().as_bytes()]),
            None => keyed(&[b"user ", write.organization_id.0.as_bytes(), write.user_id.0.as_bytes()]),
        };
        Saving {
            scope,
            key_hash: write.key_hash,
            fingerprint: keyed(&[b"fingerprint ", &write.fingerprint]),
            role: write.role,
            ids: cx.ids.clone(),
            status: O::STATUS,
            at: cx.now,
            seal: self.answers.seal.clone(),
        }
    }

    fn given_again<E>(
        &self,
        cx: &Context,
        saving: &Saving,
        saved: SavedAnswer,
    ) -> Result<Answer, Failure<E>> {
        if saved.fingerprint != saving.fingerprint {
            return Err(Failure::KeyReused);
        }
        if saving.role < saved.role {
            return Err(Failure::Forbidden("your role has changed since this was answered"));
        }
        let body = match &saved.sealed {
            Some(sealed) => self.answers.seal.open(&saving.key_hash, sealed),
            None => (saved.status == 204).then(Vec::new),
        };
        let answer = match body {
            Some(body) => Answer {
                status: saved.status,
                body: body.into(),
                etag: None,
                location: None,
                next_cursor: None,
                first: None,
            },
            None => {
                let rule = "a request with this idempotency key took effect; its answer held a secret and was given once";
                let problem = Problem::new(ProblemType::AnswerGiven, rule).with_outcome(Outcome::Done);
                Answer::refusal(&problem, cx)
            }
        };
        Ok(Answer { first: Some(saved.first), ..answer })
    }
}
