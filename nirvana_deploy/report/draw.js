/* Draws each chart from the JSON beside it. */
(function () {
  "use strict";
  var charts = [];
  document.querySelectorAll("script.chart-data").forEach(function (stored) {
    var figure = JSON.parse(stored.textContent);
    var chart = stored.parentElement.querySelector(".chart");
    charts.push(chart);
    Plotly.newPlot(chart, figure.data, figure.layout, {
      responsive: true,
      displayModeBar: false,
    });
  });
  // A printed page is narrower than most windows, and a drawn chart does not reflow by itself.
  window.addEventListener("beforeprint", function () {
    document.querySelectorAll("details:not(.figures)").forEach(function (details) {
      details.open = true;
    });
    charts.forEach(function (chart) {
      Plotly.relayout(chart, { width: 640 });
    });
  });
  window.addEventListener("afterprint", function () {
    charts.forEach(function (chart) {
      Plotly.relayout(chart, { width: null, autosize: true });
    });
  });
})();
