// oidc-provider as a strict authorization server: PKCE for everybody, refresh tokens rotate, and a page that
// a browser can go through. SETTINGS is JSON: clients, issuer (null for this process' own address), scopes,
// access_token_s, refresh_token_s, code_s, claims (of the ID tokens, by login).

import { generateKeyPairSync } from "node:crypto";

import Provider from "oidc-provider";

import { read, Watched } from "./watched.mjs";

const settings = JSON.parse(process.env.SETTINGS);
const watched = new Watched();
const grants = new Map(); // account to the ids of its grants

await watched.serve((url, port) => {
  const issuer = settings.issuer ?? url;
  let provider, answer, number = 0;
  // With new keys, as after a rotation: what it has given out is in memory that all its instances share.
  const renew = () => {
    number += 1;
    provider = new Provider(issuer, configuration(port, number === 1 ? "test" : `test-${number}`));
    provider.proxy = issuer.startsWith("https:");
    observe(provider);
    answer = provider.callback();
    return { rotations: number - 1 };
  };
  renew();
  watched.commands.forget = ({ account }) => forget(provider, account);
  watched.commands.rotate = renew;
  return async (request, response) => {
    const [, first, , action] = request.url.split("/");
    if (first !== "interaction") return answer(request, response);
    try {
      await interact(provider, request, response, action);
    } catch (error) {
      response.writeHead(400, { "content-type": "text/plain" }).end(String(error));
    }
  };
}, "/token");

function configuration(port, kid) {
  const { privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
  const month = 30 * 24 * 3600;
  const own = settings.claims ?? {};
  return {
    clients: settings.clients,
    scopes: ["openid", "offline_access", ...settings.scopes],
    claims: { openid: ["sub", ...Object.values(own).flatMap(Object.keys)], profile: ["name"], email: ["email"] },
    conformIdTokenClaims: Object.keys(own).length === 0,
    clientAuthMethods: ["client_secret_basic", "client_secret_post", "none"],
    pkce: { required: () => true },
    rotateRefreshToken: true,
    clockTolerance: 0,
    findAccount: (_ctx, id) => ({
      accountId: id,
      claims: async () => ({ sub: id, name: `${id} Example`, email: `${id}@example.com`, ...own[id] }),
    }),
    // Each time an account is connected it is a grant of its own: ending one leaves the others.
    loadExistingGrant: (ctx) => {
      const id = ctx.oidc.result?.consent?.grantId;
      return id && ctx.oidc.provider.Grant.find(id);
    },
    interactions: { url: (_ctx, interaction) => `/interaction/${interaction.uid}` },
    features: {
      devInteractions: { enabled: false },
      revocation: { enabled: true },
      introspection: { enabled: true },
    },
    // Cookies know no ports: servers on one address must not meet in a browser.
    cookies: {
      keys: ["a key of a test"],
      names: { session: `_s${port}`, interaction: `_i${port}`, resume: `_r${port}` },
    },
    jwks: { keys: [{ ...privateKey.export({ format: "jwk" }), use: "sig", alg: "RS256", kid }] },
    ttl: {
      AccessToken: settings.access_token_s,
      AuthorizationCode: settings.code_s,
      RefreshToken: settings.refresh_token_s,
      IdToken: 3600,
      Interaction: 3600,
      Session: month,
      Grant: month,
    },
    renderError: (ctx, out) => {
      ctx.type = "html";
      ctx.body = page(`<p id="error">${escaped(out.error)}: ${escaped(out.error_description ?? "")}</p>`);
    },
  };
}

function observe(provider) {
  provider.on("grant.success", (ctx) => {
    const { Account, Grant } = ctx.oidc.entities;
    watched.granted(ctx.oidc.params.grant_type, ctx.body);
    watched.keep(ctx.oidc.params.code, ctx.oidc.params.code_verifier);
    grants.set(Account.accountId, (grants.get(Account.accountId) ?? new Set()).add(Grant.jti));
  });
  provider.on("grant.error", (ctx, error) => watched.refused(ctx.oidc?.params?.grant_type, error.error));
  provider.on("server_error", (_ctx, error) => watched.stats.faults.push(String(error.stack)));
  for (const kind of ["access_token", "refresh_token", "authorization_code"]) {
    for (const what of ["saved", "consumed", "destroyed"]) {
      provider.on(`${kind}.${what}`, () => watched.happened(`${kind}.${what}`));
    }
  }
  for (const event of ["authorization.success", "authorization.error", "grant.revoked"]) {
    provider.on(event, () => watched.happened(event));
  }
  provider.use(async (ctx, next) => {
    await next();
    const route = ctx.oidc?.route;
    if (route === "revocation" && ctx.status === 200) watched.stats.revoked += 1;
    if (route === "userinfo" || route === "introspection") watched.happened(`${route}.${ctx.status}`);
  });
}

// As when somebody takes an app's access away in the account's settings.
async function forget(provider, account) {
  const ids = [...(grants.get(account) ?? [])];
  grants.delete(account);
  for (const id of ids) {
    for (const model of [provider.AccessToken, provider.RefreshToken]) await model.revokeByGrantId(id);
    await provider.Grant.adapter.destroy(id);
  }
  return { forgotten: ids.length };
}

async function interact(provider, request, response, action) {
  const details = await provider.interactionDetails(request, response);
  if (request.method === "GET" && !action) {
    return response.writeHead(200, { "content-type": "text/html; charset=utf-8" }).end(shown(details));
  }
  const result = await results[`${request.method} ${action}`](provider, details, request);
  await provider.interactionFinished(request, response, result, { mergeWithLastSubmission: !result.error });
}

const results = {
  "POST login": async (_provider, _details, request) => ({
    login: { accountId: new URLSearchParams(await read(request)).get("login") },
  }),
  "POST allow": async (provider, { params, session, prompt: { details } }) => {
    const grant = new provider.Grant({ accountId: session.accountId, clientId: params.client_id });
    grant.addOIDCScope((details.missingOIDCScope ?? params.scope.split(" ")).join(" "));
    if (details.missingOIDCClaims) grant.addOIDCClaims(details.missingOIDCClaims);
    return { consent: { grantId: await grant.save() } };
  },
  "POST deny": async () => ({ error: "access_denied", error_description: "the account's owner said no" }),
};

function shown({ uid, prompt, params, session }) {
  const at = `/interaction/${uid}`;
  const deny = `<form method="post" action="${at}/deny"><button id="deny">Deny</button></form>`;
  if (prompt.name === "login") {
    return page(`<form method="post" action="${at}/login">
      <input id="login" name="login" autocomplete="off" required> <button id="sign-in">Sign in</button></form>${deny}`);
  }
  return page(`<p><b id="account">${escaped(session.accountId)}</b>, may <b id="client">${escaped(params.client_id)}</b>
    have <b id="scopes">${escaped(params.scope)}</b>?</p>
    <form method="post" action="${at}/allow"><button id="allow">Allow</button></form>${deny}`);
}

function page(body) {
  return `<!doctype html><meta charset="utf-8"><title>Authorization server</title>${body}`;
}

function escaped(text) {
  return String(text).replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
}
