// oauth2-mock-server as it comes: it takes every client and every refresh token, and asks nobody.

import { OAuth2Issuer, OAuth2Service } from "oauth2-mock-server";

import { Watched } from "./watched.mjs";

const watched = new Watched();

await watched.serve(async (url) => {
  const issuer = new OAuth2Issuer();
  issuer.url = url;
  await issuer.keys.generate("RS256");
  const service = new OAuth2Service(issuer);
  service.on("beforeResponse", ({ body, statusCode }, { body: asked }) => {
    if (statusCode === 200) watched.granted(asked.grant_type, body);
    else watched.refused(asked.grant_type, body.error);
    watched.keep(asked.code, asked.code_verifier);
  });
  service.on("beforeRevoke", () => (watched.stats.revoked += 1));
  return service.requestHandler;
}, "/token");
