import { app } from '../../scripts/app.js'

// The front end keeps no word of a text preview's mode in a workflow: ours says that it is Markdown in a property.
app.registerExtension({
  name: 'i2vgen_xl.tables',
  loadedGraphNode(node) {
    const mode = node.widgets?.find((widget) => widget.name === 'preview_mode')
    if (mode && node.properties?.i2vgen_xl_markdown) mode.value = true
  }
})
