(() => {
  // The server sends the parts of the page that changed, by id. Nothing in them can have the focus, so focus, scroll
  // position and selection elsewhere stay. Where no stream is to be had, the parts are fetched now and then.
  const query = document.documentElement.dataset.live;
  const show = parts => {
    for (const [id, html] of Object.entries(JSON.parse(parts))) {
      const old = document.getElementById(id);
      if (!old) return location.reload(); // another poll, or another version of this page
      if (old.innerHTML !== html) old.innerHTML = html;
    }
  };
  const later = () => setTimeout(open, 5000 + 10000 * Math.random());
  const open = () => {
    const stream = new EventSource(query);
    stream.onmessage = event => show(event.data);
    stream.onerror = () => {
      if (stream.readyState !== EventSource.CLOSED) return; // it connects again by itself
      fetch(query + '&once=1').then(answer => answer.ok ? answer.text().then(show) : 0).catch(() => 0).then(later);
    };
  };
  open();
})();
