// <interlink-connect session="..."> opens a window of the hub, in which a user connects an account, and dispatches the
// result as events. It works on pages of any host. See docs/how-to/embed-the-hub.md.
const hub = new URL(import.meta.url).origin;
const POLL_MS = 400;
const style = new CSSStyleSheet();
style.replaceSync(`
  :host { display: inline-block }
  :host([hidden]) { display: none }
  button { font: inherit; font-size: var(--interlink-font-size, inherit); padding: .5em 1em; cursor: pointer;
    color: var(--interlink-text, ButtonText); background: var(--interlink-background, ButtonFace);
    border: 1px solid var(--interlink-accent, ButtonBorder); border-radius: var(--interlink-radius, 4px) }
  button:focus-visible { outline: 3px solid var(--interlink-accent, Highlight); outline-offset: 2px }
`);

class InterlinkConnect extends HTMLElement {
  #window = null;
  #timer = 0;
  #receive = (event) => this.#message(event);

  constructor() {
    super();
    const root = this.attachShadow({ mode: "open", delegatesFocus: true });
    root.adoptedStyleSheets = [style];
    const button = document.createElement("button");
    button.type = "button";
    button.part = "button";
    const label = document.createElement("slot");
    label.textContent = "Connect an account";
    button.append(label);
    button.addEventListener("click", () => this.open());
    root.append(button);
  }

  connectedCallback() { addEventListener("message", this.#receive); }

  disconnectedCallback() {
    removeEventListener("message", this.#receive);
    this.#end();
  }

  /** Opens the window, or brings the open one to the front. Call it in the handler of a click. */
  open() {
    const session = this.getAttribute("session") ?? "";
    const [id, code] = session.split(".");
    if (!id || !code) return this.#dispatch("failed", { error: "no_session" });
    if (this.#window && !this.#window.closed) {
      this.#window.focus();
      return this.#dispatch("focused");
    }
    const address = `${hub}/console/connect/${encodeURIComponent(id)}/open?code=${encodeURIComponent(code)}`;
    this.#window = window.open(address, `interlink-${id}`, "popup,width=520,height=720");
    if (!this.#window) return this.#dispatch("failed", { error: "popup_blocked" });
    this.#window.focus();
    this.#timer = setInterval(() => {
      if (this.#window.closed) { this.#end(); this.#dispatch("closed"); }
    }, POLL_MS);
    this.#dispatch("opened");
  }

  #message({ data, source, origin }) {
    if (origin !== hub || !source || source !== this.#window) return;
    const session = (this.getAttribute("session") ?? "").split(".")[0];
    if (data?.session !== session) return;
    if (data.type === "interlink-connect:hello") {
      source.postMessage({ type: "interlink-connect:welcome", session }, hub);
    } else if (data.type === "interlink-connect:result") {
      const { status, provider, integrationId, confirmationCode, error } = data.result;
      this.#end();
      if (status === "failed") this.#dispatch("failed", { error, integrationId });
      else this.#dispatch("connected", { status, provider, integrationId, confirmationCode });
    }
  }

  #end() {
    clearInterval(this.#timer);
    const opened = this.#window;
    this.#window = null;
    if (opened && !opened.closed) opened.close();
  }

  #dispatch(name, detail = {}) {
    this.dispatchEvent(new CustomEvent(`interlink-connect:${name}`, { detail, bubbles: true, composed: true }));
  }
}

if (!customElements.get("interlink-connect")) customElements.define("interlink-connect", InterlinkConnect);
