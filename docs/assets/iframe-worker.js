/* Search from disk: a page opened as file:// may start no worker. This runs the worker's script in a hidden frame,
   behind the part of the Worker interface that the search uses. Pages from a server keep the real one. */
if (location.protocol === "file:") {
  window.IFrameWorker = window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      this.ready = new Promise(done => {
        const frame = document.createElement("iframe")
        frame.hidden = true
        document.body.appendChild(frame)
        const inside = frame.contentWindow
        inside.document.open()
        inside.document.write("<!doctype html><html><head></head><body></body></html>")
        inside.document.close()
        inside.postMessage = data => this.dispatchEvent(new MessageEvent("message", {data}))
        inside.importScripts = (...urls) => urls.reduce(
          (before, next) => before.then(() => this.load(inside, next)), Promise.resolve())
        this.load(inside, new URL(url, location.href).href).then(() => done(inside))
      })
    }
    load(inside, url) {
      return new Promise((done, failed) => {
        const script = inside.document.createElement("script")
        script.onload = done
        script.onerror = failed
        script.src = url
        inside.document.head.appendChild(script)
      })
    }
    postMessage(data) {
      this.ready.then(inside => inside.dispatchEvent(new inside.MessageEvent("message", {data})))
    }
    terminate() {}
  }
}
