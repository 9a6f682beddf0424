// What the front end leaves to a pack: text below a block that is out of date, released files that are missing without a
// widget that holds their names, and what is found first.
import { app } from '../../scripts/app.js'

// ---- text below blocks

const TEXT = '$$node-text-preview' // the front end's name of the widget that shows it
const mayWrite = (type) => type?.startsWith('I2VGenXL') && type !== 'I2VGenXLVAEDecode' // that one follows a sampler's text

// The nodes of an execution id such as "5:3", outermost first: a block that holds others shows their text too.
function nodesOf(id) {
  let graph = app.rootGraph
  const found = []
  for (const part of String(id).split(':')) {
    const node = graph?.getNodeById(part)
    if (node) found.push(node)
    graph = node?.subgraph
  }
  return found
}

// The front end keeps a text until the block writes another, and a block without anything to say writes none.
function forgetText(node) {
  const widget = node.widgets?.find((each) => each.name === TEXT)
  if (!widget) return
  widget.onRemove?.()
  node.widgets.splice(node.widgets.indexOf(widget), 1)
  node.setDirtyCanvas(true, true)
}

function forgetTextsOf(id) {
  const nodes = nodesOf(id)
  if (mayWrite(nodes.at(-1)?.type)) nodes.forEach(forgetText)
}

// The front end shows a text on the block that writes it, where that is seen. A block that holds it shows it too.
function showTextOutside({ nodeId, ...text }) {
  const nodes = nodesOf(nodeId)
  if (!nodes.at(-1)?.type?.startsWith('I2VGenXL')) return
  const parts = String(nodeId).split(':')
  for (const [depth, outer] of nodes.slice(0, -1).entries())
    if (outer.graph === app.canvas.graph)
      app.api.dispatchCustomEvent('progress_text', { ...text, nodeId: parts.slice(0, depth + 1).join(':') })
}

// ---- released files

const LOADER = 'I2VGenXLCascadeLoader'
const CHOICES = { [LOADER]: 'bundle', I2VGenXLRefinerLoader: 'model_name' } // the widgets whose choice means released files
const RELEASED = ['released files', 'i2vgen-xl'] // as nodes/host/folders.py names them; the second is the published folder
const WITH_BASE = 'goes with the base'
let offered = {} // by type of node: {name, url, directory, there} of each file

function readDefinitions(definitions) {
  for (const [type, name] of Object.entries(CHOICES))
    offered[type] = definitions[type]?.input.required[name][1]?.released ?? []
}

function everyNode(graph, found = []) {
  for (const node of graph?.nodes ?? []) {
    found.push(node)
    if (node.subgraph) everyNode(node.subgraph, found)
  }
  return found
}

// The blocks that hold a node's graph, from outside.
function holdersOf(node) {
  return everyNode(app.rootGraph).filter((each) => each.subgraph === node.graph)
}

// A widget's value, or that of the outer block's widget which stands for it.
function valueOf(node, name) {
  const link = node.inputs?.find((input) => input.widget?.name === name)?.link
  const outer = link == null ? null : holdersOf(node)[0]
  const promoted = outer && node.graph.inputs[node.graph.getLink(link)?.origin_slot]?.name
  const widget = promoted ? outer.widgets?.find((each) => each.name === promoted) : null
  return (widget ?? node.widgets?.find((each) => each.name === name))?.value
}

function choosesReleased(node) {
  const choice = node.widgets?.find((each) => each.name === CHOICES[LOADER])
  const value = valueOf(node, CHOICES[LOADER])
  return value === RELEASED[0] || (value === RELEASED[1] && !choice?.options.values.includes(value))
}

// The front end looks for missing files in the widgets of a graph. Each released file has one here that is never shown
// or saved, with the file's name where the choice means it.
function offerFiles() {
  const nodes = everyNode(app.rootGraph).filter((node) => node.type in CHOICES)
  const released = nodes.some((node) => node.type === LOADER && choosesReleased(node))
  for (const node of nodes) {
    const files = offered[node.type] ?? []
    const chosen = node.type === LOADER ? choosesReleased(node) : released && valueOf(node, CHOICES[node.type]) === WITH_BASE
    if (files.length) node.properties.models ??= files.map(({ name, url, directory }) => ({ name, url, directory }))
    for (const { name, there } of files) {
      const options = { values: there ? [name] : [], hidden: true, serialize: false }
      const widget =
        node.widgets.find((each) => each.name === name) ??
        node.addCustomWidget({ type: 'combo', name, value: '', y: 0, hidden: true, serialize: false, options })
      widget.options.values = options.values
      widget.value = chosen ? name : ''
    }
  }
}

// The front end looks when a graph is opened. Here a choice is answered as well, in the block or in one that holds it, whose
// widgets the front end makes anew at times: so the graph's changes are watched, not the widgets.
const answered = new WeakMap() // the choice of a block, as it was last seen

function answerChoices() {
  const changed = everyNode(app.rootGraph).filter((node) => {
    const value = node.type in CHOICES && valueOf(node, CHOICES[node.type])
    const before = answered.get(node)
    answered.set(node, value)
    return before !== undefined && value !== before
  })
  if (!changed.length) return
  for (const node of changed) [node, ...holdersOf(node)].forEach(forgetText) // of what was chosen before
  offerFiles()
  app.refreshMissingModels?.({ reloadDefs: false, silent: false })
}

// ---- the search for blocks

// The front end ranks what it finds by the shown name and by the id, whichever fits better. Every id here begins with the
// network's name, and that of Poses to Video has Animate in it: nobody means a single block by "i2v" or "animate". So
// blocks that hold a whole stage, and have the words within their names, come first.
const NETWORK = /^I2VGen-?XL/
const RENAMED = 'I2VGenXLAnimate'
const RANK = { begins: 1, within: 4, others: 9 }

function rankBehindWholeStages(definition) {
  const { name, display_name } = definition
  definition.postProcessSearchScores = ([rank, place, length, ...rest]) => {
    const found = length === name.length ? name : display_name
    if (rank >= RANK.begins && found === RENAMED) rank = RANK.others
    if (rank === RANK.begins && NETWORK.test(found)) rank = RANK.within
    return [rank, 0, place, length, ...rest] // 0: how often a block is used, which it knows of its own alone
  }
}

// ---- the list of templates

// The host lists a pack's templates as its disk does, and the front end keeps that order, where a search finds several
// alike too. Ours are numbered.
const listTemplates = app.api.getWorkflowTemplates.bind(app.api)
app.api.getWorkflowTemplates = async () => {
  const found = await listTemplates()
  for (const titles of Object.values(found)) if (titles.some((title) => NETWORK.test(title))) titles.sort()
  return found
}

app.registerExtension({
  name: 'i2vgen_xl',
  beforeRegisterVueAppNodeDefs(definitions) {
    definitions.filter(({ name }) => name.startsWith('I2VGenXL')).forEach(rankBehindWholeStages)
  },
  addCustomNodeDefs: readDefinitions,
  refreshComboInNodes(definitions) {
    readDefinitions(definitions)
    offerFiles()
  },
  afterConfigureGraph() {
    answerChoices()
    offerFiles()
  },
  setup() {
    app.api.addEventListener('graphChanged', answerChoices)
    app.api.addEventListener('progress_text', ({ detail }) => showTextOutside(detail))
    app.api.addEventListener('executing', ({ detail }) => detail && forgetTextsOf(detail))
    app.api.addEventListener('execution_interrupted', ({ detail }) => forgetTextsOf(detail.node_id))
  },
})
