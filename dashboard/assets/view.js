"use strict";

// Plotly is read while the page is being put together. Dash waits for what it finds under this
// name, and would read it a second time if it found nothing.
(function () {
    const script = document.getElementById("plotly");
    if (script && !window.Plotly) {
        window.Plotly = new Promise(function (done, failed) {
            script.addEventListener("load", done);
            script.addEventListener("error", failed);
        });
    }
})();

// The address is the view: switches and clicks write it, and it sets the switches.
window.dash_clientside = window.dash_clientside || {};
window.dash_clientside.spikescope = {
    sync: function (search, defaults, values, clicks, ids) {
        const no = window.dash_clientside.no_update;
        const view = new URLSearchParams(search || "");
        const known = defaults || {};
        const steps = known.steps || [];

        // What a switch should stand at for this address. The slider counts recorded steps.
        const standing = function (key) {
            let value = view.get(key);
            if (value === null || value === "") {
                value = known[key];
            }
            if (key === "other") {
                return (value || "").split("/").filter(Boolean);
            }
            if (typeof known[key] === "number" && key !== "step") {
                return Number(value);
            }
            if (key !== "step") {
                return value;
            }
            let best = 0;
            steps.forEach(function (step, place) {
                if (Math.abs(step - value) < Math.abs(steps[best] - value)) {
                    best = place;
                }
            });
            return best;
        };

        const same = function (one, two) {
            return JSON.stringify(one) === JSON.stringify(two);
        };

        let changed = false;
        const write = function (key, value) {
            if (value !== undefined && value !== null) {
                view.set(key, value);
                changed = true;
            }
        };
        window.dash_clientside.callback_context.triggered.forEach(function (trigger) {
            const dot = trigger.prop_id.lastIndexOf(".");
            const name = trigger.prop_id.slice(0, dot);
            if (!name.startsWith("{") || trigger.value === null || trigger.value === undefined) {
                return;
            }
            const id = JSON.parse(name);
            if (id.type === "set" && !same(trigger.value, standing(id.key))) {
                if (standing(id.key) === undefined || trigger.value === "") {
                    return;
                }
                const chosen = Array.isArray(trigger.value)
                    ? trigger.value.join("/")
                    : trigger.value;
                write(id.key, id.key === "step" ? steps[chosen] : chosen);
                // A timestep belongs to the layer that it was chosen in.
                if (id.key === "layer") {
                    view.delete("t");
                }
            } else if (id.type === "graph" && trigger.value.points && trigger.value.points.length) {
                const point = trigger.value.points[0];
                if (id.goes === "layer") {
                    // Dash hands on no custom data of a heatmap's cell: its row is the layer.
                    const cell = Array.isArray(point.customdata)
                        ? point.customdata
                        : [(known.layers || [])[point.y], point.x];
                    if (cell[0] === undefined) {
                        return;
                    }
                    write("page", "layer");
                    write("layer", cell[0]);
                    write("t", cell[1]);
                    write("step", steps[standing("step")]);
                } else if (id.goes === "t" && (point.text || Array.isArray(point.customdata))) {
                    write("t", point.text || point.customdata[1]);
                } else if (id.goes === "step") {
                    write("step", Math.round(point.x));
                }
            }
        });
        // One switch may move another: a layer its timestep, a click on a figure any of them.
        return [changed ? "?" + view.toString() : no, values.map(function (value, place) {
            const wanted = standing(ids[place].key);
            return wanted === undefined || same(wanted, value) ? no : wanted;
        })];
    },

    // The figure as a picture; plotly is loaded with the first graph.
    save: function (count, id) {
        const no = window.dash_clientside.no_update;
        if (!count) {
            return no;
        }
        const graph = document.querySelectorAll(".dash-graph");
        graph.forEach(function (outer) {
            let own = null;
            try {
                own = JSON.parse(outer.id);
            } catch (error) {
                return;
            }
            const inner = outer.querySelector(".js-plotly-plot");
            if (own.type === "graph" && own.index === id.index && inner) {
                window.Plotly.downloadImage(inner, {
                    format: id.kind,
                    filename: "spikescope-" + id.index,
                    width: inner.clientWidth,
                    height: inner.clientHeight,
                    scale: id.kind === "png" ? 2 : 1,
                });
            }
        });
        return no;
    },

    copy: function (count, id) {
        const text = document.getElementById(id.index);
        if (count && text && navigator.clipboard) {
            navigator.clipboard.writeText(text.textContent);
        }
        return window.dash_clientside.no_update;
    },

    // A hidden tab does not ask for news.
    beat: function (count) {
        return document.hidden ? window.dash_clientside.no_update : count;
    },
};
