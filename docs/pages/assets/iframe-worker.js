// Browsers start no worker for a page opened from the file system. There, and only there, a hidden
// frame runs the worker's script instead, so that the search works without a server.
"use strict";
(() => {
  if (location.protocol !== "file:") return;

  class FrameWorker extends EventTarget {
    constructor(url) {
      super();
      this.waiting = [];
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.body.append(this.frame);

      const scope = this.frame.contentWindow;
      scope.postMessage = (data) => this.answer(data);
      scope.importScripts = (...urls) =>
        urls.reduce((before, next) => before.then(() => load(scope, next)), Promise.resolve());
      load(scope, url).then(() => {
        const messages = this.waiting;
        this.waiting = null;
        messages.forEach((data) => this.postMessage(data));
      });
    }

    // From the page to the worker.
    postMessage(data) {
      if (this.waiting) this.waiting.push(data);
      else deliver(this.frame.contentWindow, new MessageEvent("message", { data }));
    }

    // From the worker to the page.
    answer(data) {
      deliver(this, new MessageEvent("message", { data }));
    }

    terminate() {
      this.frame.remove();
    }
  }

  function deliver(target, event) {
    // The frame's own onmessage property already listens; an EventTarget's does not.
    target.dispatchEvent(event);
    if (target instanceof FrameWorker && typeof target.onmessage === "function") {
      target.onmessage(event);
    }
  }

  function load(scope, url) {
    return new Promise((resolve, reject) => {
      const script = scope.document.createElement("script");
      script.src = new URL(url, location.href);
      script.onload = resolve;
      script.onerror = reject;
      scope.document.body.append(script);
    });
  }

  window.Worker = FrameWorker;
})();
